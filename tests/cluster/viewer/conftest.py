"""A viewer at work, and a Chromium that looks at it."""

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from cluster.viewer.injections import AGENTDOJO_SUITES
from cluster.viewer.library import Library
from cluster.viewer.server import build_app
from cluster.viewer.view import _open_listener
from tests.cluster.viewer.made_up_runs import hostile_episode, mixed_records, resisting_records, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
NEEDS_CHROMIUM = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: `make chromium` installs it"),
    pytest.mark.group("viewer in a browser"),  # they share runs, and AgentDojo, which takes seconds to load
]
PATIENCE = 150_000
"""Milliseconds for what a page is to show: a machine under load is slow."""


class Viewer:
    """A viewer at work, and a browser that looks at it."""

    def __init__(self, page: Any, base: str, keys: list[str]) -> None:
        self.page = page
        self.base = base
        self.keys = keys
        self.asked: list[str] = []
        self.complaints: list[str] = []

    def open(self, path: str, waits_for: str) -> Any:
        self.page.goto(f"{self.base}#{path}")
        self.page.wait_for_selector(waits_for)
        return self.page


@contextmanager
def start_browser() -> Iterator[Any]:
    """A Chromium. As long as it is there, nothing else of this thread may run an event loop."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE
        )
        yield browser
        browser.close()


@contextmanager
def look_at(browser: Any, places: Sequence[Path]) -> Iterator[Viewer]:
    """Serves runs, opens their page, and sees to it that nothing is complained of or asked for elsewhere."""
    library = Library([str(place) for place in places])
    listener = _open_listener("127.0.0.1", 0)
    base = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    app = build_app(library, "secret", frozenset({"127.0.0.1"}))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            shown = Viewer(page, base, [run.key for run in library.runs])
            page.on("request", lambda request: shown.asked.append(request.url))
            page.on("console", lambda message: shown.complaints.append(message.text))
            page.on("pageerror", lambda error: shown.complaints.append(str(error)))
            page.goto(f"{base}?token=secret")
            yield shown
        assert not shown.complaints
        assert all(url.startswith((base, "data:")) for url in shown.asked)
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.fixture(scope="session")
def made_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    AGENTDOJO_SUITES.wait()
    folder = tmp_path_factory.mktemp("made-runs")
    hostile = [hostile_episode(50), hostile_episode(51, steps=10_000), hostile_episode(52, output=50_000_000)]
    write_run(folder / "hostile", hostile)
    write_run(folder / "mixed", mixed_records(16))
    write_run(folder / "second", resisting_records(16))
    return folder


@pytest.fixture(scope="module")
def runs(made_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs: attacked, hostile, and the same tasks by another policy."""
    return Path(shutil.copytree(made_runs, tmp_path_factory.mktemp("runs") / "made"))


@pytest.fixture
def live_run(tmp_path: Path) -> Path:
    """A run at work."""
    return write_run(tmp_path / "live", mixed_records(4), commit=False, planned=6)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with start_browser() as browser:
        yield browser


@pytest.fixture
def viewer(browser: Any, runs: Path, live_run: Path) -> Iterator[Viewer]:
    """A browser that looks at all of them."""
    with look_at(browser, [runs / "mixed", runs / "hostile", live_run, runs / "second"]) as shown:
        yield shown
