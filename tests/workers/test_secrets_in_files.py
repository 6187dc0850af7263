"""No secret of the environment variables is in what a run writes: neither in its log nor in its records."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.rollouts import record, rollout_worker, rows, spec
from tests.helpers.scripted_policy import ScriptedPolicy, message
from workers import handed_on, logs
from workers.settings import PolicyEndpoint

SECRET = 'sk-"which"-nobody\\may-see'
"""A value with what JSON writes in another way."""


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handed_on, "_secrets", handed_on._Secrets())
    monkeypatch.setenv("SOME_JUDGE_KEY", SECRET)


def is_told(text: str) -> bool:
    """Whether a text has what is to be hidden, in any form: its last part is the same in all of them."""
    return "may-see" in text or "nobody" in text


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Path]:
    """The file of a run's log, as the driver opens it."""
    file = tmp_path / "log.jsonl"
    handler = logs.LogFile(file, encoding="utf-8")
    logs.log_to(handler, run="test-run")
    yield file
    logs.stop_logging_to(handler)


def test_no_secret_is_in_the_log(lines: Path) -> None:
    log = logging.getLogger("cluster.pool")
    log.info("asks with %s", SECRET)
    log.warning("asks with %r", {"Authorization": f"Bearer {SECRET}"})
    log.error("failed", extra={"traceback": f"Traceback: ValueError: {SECRET}"})
    try:
        raise ValueError(f"the key {SECRET} is refused")
    except ValueError:
        log.exception("failed again")
    written = lines.read_text()
    assert not is_told(written)
    said = [json.loads(line) for line in written.splitlines()]
    assert len(said) == 4
    assert all("<SOME_JUDGE_KEY>" in json.dumps(line) for line in said)
    assert said[0]["message"] == "asks with <SOME_JUDGE_KEY>"


def test_what_other_packages_log_in_a_worker_has_none_either() -> None:
    line = logging.LogRecord("verifiers", logging.ERROR, "rubric.py", 1, "refused: %s", (SECRET,), None)
    assert not is_told(logs.PlainLines().format(line))


@pytest.mark.parametrize("told", ["error", "policy", "printed"])
def test_no_secret_is_in_a_record_whoever_tells_it(told: str) -> None:
    with ScriptedPolicy(lambda _: message(SECRET if told == "policy" else "ok")) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url)
        args = {"kind": "tells_its_key", "how": told}
        with rollout_worker("tests.helpers.odd_environments", args=args, policy=endpoint) as worker:
            [result] = worker.play([spec(rows(worker)[0])])
    assert not is_told(result.model_dump_json())
    assert "<SOME_JUDGE_KEY>" in result.model_dump_json()
    assert record(result).status == ("failed" if told == "error" else "finished")
