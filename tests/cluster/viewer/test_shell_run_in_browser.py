"""An episode of the shell environment as it was really played: what hidden tests said of a wrong program."""

from pathlib import Path

import pytest

from tests.cluster.viewer.conftest import NEEDS_CHROMIUM, look_at, start_browser
from tests.cluster.viewer.made_up_runs import write_run
from tests.helpers.mock_policy import MockPolicy, Reply
from tests.helpers.rollouts import played, record, rollout_worker, rows, spec
from workers.settings import PolicyEndpoint

pytestmark = NEEDS_CHROMIUM

_WRITE = "printf 'def justify(text, width):\\n    return [text.ljust(width)]\\n' > justify.py"
_COLOURS = "printf '\\033[1;31mred\\033[0m\\n'"


@pytest.mark.slow
def test_the_tests_that_a_program_failed_are_shown_with_its_file_and_its_output(tmp_path: Path) -> None:
    calls: list[tuple[str, dict[str, str]]] = [("bash", {"command": _WRITE}), ("bash", {"command": _COLOURS})]
    replies = [Reply(None, [(name, {**arguments})]) for name, arguments in calls]
    with MockPolicy(*replies, default=Reply("It is written.")) as policy:
        endpoint = PolicyEndpoint(kind="openai", model="mock", base_url=policy.base_url)
        with rollout_worker(
            "shell",
            args={"tasks": ["write-justify"]},
            policy=endpoint,
            sandbox={"recycle": "fork", "unsafe": True},
        ) as worker:
            (result,) = played(worker, spec(rows(worker)[0]))
    run = write_run(tmp_path / "run", [record(result)], states=result.states)
    with start_browser() as browser, look_at(browser, [run]) as viewer:
        page = viewer.open(f"/run/{viewer.keys[0]}/episode/{result.episode_id}", ".tests")
        failed = page.inner_text(".tests")
        assert "tests failed" in failed and "test_single_word_is_set_to_the_left" in failed
        page.wait_for_selector(".files .diff .line.added:has-text('return [text.ljust(width)]')")
        assert page.inner_text(".call .ansi1.bold") == "red"
        assert "justify.py" in page.inner_text(".files")
