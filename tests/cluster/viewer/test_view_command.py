"""`kumite view` as a user starts it: what it prints, whom it lets in, how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.errors import ConfigError
from tests.cluster.viewer.made_up_runs import mixed_records, write_run

_PATIENCE = 300
"""Seconds: a machine under load is slow."""


@contextmanager
def viewing(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A viewer in a process of its own, which is ended as Ctrl+C ends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster", "view", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=_PATIENCE)
        finally:
            process.kill()


def wait_for_file(path: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while not path.exists():
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.05)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.slow
def test_the_address_of_one_run_leads_to_its_page_and_ctrl_c_ends_the_viewer(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", mixed_records(4))
    with viewing(str(run), "--no-browser") as process:
        address = urlsplit(read_line(process))
        assert address.hostname == "127.0.0.1" and address.fragment.startswith("/run/run-")
        base = f"http://{address.netloc}"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{base}/", timeout=_PATIENCE)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(f"{base}/?{address.query}", timeout=_PATIENCE) as answer:
            assert b'id="page"' in answer.read()
        with opener.open(f"{base}/api{address.fragment.replace('/run/', '/runs/')}/brief") as answer:
            assert b'"episodes": 4' in answer.read()
    assert process.returncode in (0, 130, -signal.SIGINT)


INTERRUPTED = """
import os, signal, sys, time
from cluster.viewer.view import serve_viewer

def say(line):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
    except KeyboardInterrupt:  # as code has it that is to go on, whatever is raised in it
        pass

serve_viewer([sys.argv[1]], host="127.0.0.1", port=0, open_browser=False, say=say)
"""


@pytest.mark.slow
def test_ctrl_c_ends_it_from_the_moment_on_at_which_its_address_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", mixed_records(4))
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, str(run)], timeout=_PATIENCE, check=False)
    assert done.returncode in (0, 130, -signal.SIGINT)


@pytest.mark.slow
def test_another_address_than_loopback_comes_with_a_warning(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", mixed_records(4))
    with viewing(str(run), "--no-browser", "--host", "0.0.0.0") as process:
        warning = read_line(process)
        assert warning.startswith("warning: who can reach 0.0.0.0:") and "not encrypted" in warning
        assert read_line(process).startswith("http://127.0.0.1:")


@pytest.mark.slow
def test_the_page_is_opened_where_there_is_a_browser(tmp_path: Path) -> None:
    browser, opened, closed = tmp_path / "browser", tmp_path / "opened", tmp_path / "closed"
    browser.write_text(
        f'#!/bin/sh\nprintf %s "$1" > {opened}.new && mv {opened}.new {opened}\n'
        f"while [ ! -e {closed} ] && [ -d {tmp_path} ]; do sleep 0.1; done\n"
    )
    browser.chmod(0o755)
    runs = tmp_path / "runs"
    for name in ("one", "two"):
        write_run(runs / name, mixed_records(4))
    with viewing(str(runs), environment={"BROWSER": f"{browser} %s", "DISPLAY": ":1"}) as process:
        address = read_line(process)
        assert "#" not in address  # of several runs, the list comes first
        wait_for_file(opened)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(address, timeout=_PATIENCE) as answer:  # though the browser is still open
            assert answer.status == 200
        closed.touch()
    assert opened.read_text() == address


def test_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", mixed_records(4))
    (tmp_path / "empty").mkdir()
    report = str(tmp_path / "report.html")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, says in (
            ([str(tmp_path / "empty")], "holds no run"),
            ([str(run), "--port", port], "give an address of this machine, and a port that is free"),
            ([str(run), "--episodes", "reward<1"], "--episodes needs --export FILE"),
            (
                [str(run), "--export", report, "--episodes", "rewrad<1"],
                "no column 'rewrad'",
            ),
        ):
            found = CliRunner().invoke(app, ["view", *arguments])
            assert isinstance(found.exception, ConfigError) and says in str(found.exception)
