"""Ten questions of a new user, each answered in at most three clicks: those of docs/viewer.md."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.viewer.injections import AGENTDOJO_SUITES
from tests.cluster.viewer.conftest import NEEDS_CHROMIUM, Viewer, look_at
from tests.cluster.viewer.made_up_agents import (
    EMPTY_WORKSPACE,
    WORKSPACE_ID,
    branched_episode,
    shell_episode,
    trained_records,
)
from tests.cluster.viewer.made_up_runs import mixed_records, resisting_records, write_run

pytestmark = NEEDS_CHROMIUM


class Visitor:
    """Somebody who begins at the list of runs, and counts clicks."""

    def __init__(self, viewer: Viewer) -> None:
        self.page = viewer.page
        self._base = viewer.base
        self.clicks = 0

    def begin(self) -> None:
        self.page.goto("about:blank")
        self.page.goto(f"{self._base}#/")
        self.clicks = 0

    def click(self, selector: str) -> "Visitor":
        self.page.click(selector)
        self.clicks += 1
        assert self.clicks <= 3
        return self

    def open_run(self, name: str) -> "Visitor":
        return self.click(f"tbody a:text-is('{name}')")

    def read(self, selector: str) -> str:
        self.page.wait_for_selector(selector)
        return self.page.inner_text(selector)


@pytest.fixture(scope="module")
def shown(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    AGENTDOJO_SUITES.wait()
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "attacked", mixed_records(16))
    write_run(folder / "resisting", resisting_records(16))
    write_run(folder / "trained", trained_records())
    states = {WORKSPACE_ID: json.dumps(EMPTY_WORKSPACE)}
    write_run(folder / "workspace", [shell_episode(), shell_episode(61, sample_index=1)], states=states)
    write_run(folder / "branches", [branched_episode(), branched_episode(71)])
    with look_at(browser, [folder]) as viewer:
        yield viewer


@pytest.fixture
def visitor(shown: Viewer) -> Visitor:
    found = Visitor(shown)
    found.begin()
    return found


def test_why_did_the_policy_fail_the_first_task(visitor: Visitor) -> None:
    visitor.open_run("attacked").click(".tile:has-text('episodes') >> nth=0").click("tbody tr >> nth=0")
    why = visitor.read(".reasons[open]")
    assert "send_money" in why and "with other arguments at step 1" in why and "made at step 1" in why


def test_which_injection_succeeds_most_and_where_in_the_tool_result_it_stood(visitor: Visitor) -> None:
    row = visitor.open_run("attacked").read(".injections tbody tr >> nth=0")
    assert "injection_task_0" in row and "read_file" in row and "of 8" in row


def test_what_does_version_3_better_than_version_0(visitor: Visitor) -> None:
    visitor.open_run("trained").click("button:has-text('compare task by task')")
    assert "+0.667" in visitor.read(".differences tr:has-text('right')")
    visitor.click(".pairs tbody tr >> nth=0")
    assert "version 3" in visitor.read(".beside")


def test_which_tasks_samples_disagree_most_and_where_they_part(visitor: Visitor) -> None:
    visitor.open_run("trained").click("figure:has-text('samples disagree') tbody tr >> nth=0")
    assert "sum-2" in visitor.read(".samples h2")
    assert "reward 1" in visitor.read(".beside header") and "reward 0" in visitor.read(".beside header")


def test_is_another_run_better_or_was_it_luck(visitor: Visitor) -> None:
    visitor.click("input[aria-label='compare attacked']").click("input[aria-label='compare resisting']")
    visitor.click("button:text-is('compare')")
    row = visitor.read(".differences tr:has-text('attack success')")
    assert "-0.75" in row and " to " in row


def test_which_episodes_failed_and_why(visitor: Visitor) -> None:
    visitor.open_run("attacked").click(".tile:has-text('failed')").click("tbody tr >> nth=0")
    assert "failed at setup" in visitor.read(".failure")


def test_where_does_the_time_go(visitor: Visitor) -> None:
    stages = visitor.open_run("attacked").read("figure:has-text('seconds per stage')")
    assert "policy" in stages and "tools" in stages


def test_which_tools_calls_fail(visitor: Visitor) -> None:
    visitor.open_run("workspace")
    assert "100 %" in visitor.read("figure:has(figcaption:text-is('tools')) tbody tr")
    visitor.click("figure:has(figcaption:text-is('tools')) tbody tr")
    assert "write_file" in visitor.read("main:has-text('2 episodes')")


def test_what_did_the_agent_change_and_which_tests_failed(visitor: Visitor) -> None:
    visitor.open_run("workspace").click(".tile:has-text('episodes') >> nth=0").click("tbody tr >> nth=0")
    assert "test_zero" in visitor.read(".tests") and "IndexError" in visitor.read(".tests")
    assert "return n + n" in visitor.read(".diff .line.added >> nth=0")
    assert visitor.read(".call .ansi1.bold") == "FAILED"
    exact = visitor.page.eval_on_selector(".call .exact", "span => span.style.color")
    assert exact == "rgb(255, 135, 0)"


def test_which_tokens_were_unlikely_and_which_are_learned_from(visitor: Visitor, shown: Viewer) -> None:
    key = next(key for key in shown.keys if key.startswith("branches"))
    visitor.page.goto(f"{shown.base}#/run/{key}")  # where `kumite view RUN_DIR` begins
    visitor.click(".tile:has-text('episodes') >> nth=0").click("tbody tr >> nth=0")
    visitor.click("summary:has-text('tokens of the whole episode')")
    visitor.page.wait_for_selector(".sequences .sequence")
    text = visitor.read(".sequences")
    assert "10 tokens, 6 of them to learn from" in text and "weights: version 1 → 2" in text
    masks = visitor.page.eval_on_selector_all(
        ".sequence >> nth=0 >> .whole > span > span", "spans => spans.map(span => span.title)"
    )
    assert [("loss mask 1" in title) for title in masks] == [bool(m) for m in (0, 0, 1, 1, 0, 1, 1, 0, 1, 1)]


def test_agents_and_branches_are_lanes(visitor: Visitor) -> None:
    visitor.open_run("branches").click(".tile:has-text('episodes') >> nth=0").click("tbody tr >> nth=0")
    page: Any = visitor.page
    page.wait_for_selector(".lanes")
    names = page.eval_on_selector_all(".lanes .names div", "rows => rows.map(row => row.textContent)")
    assert names == ["codex · branch 0", "codex · branch 1"]
    assert page.locator(".lanes .edge").count() == 3  # 1 and 2 go on from 0, and 3 from 2
    assert "v2" in page.inner_text(".lanes")
    page.focus(".lanes .node >> nth=1")
    page.keyboard.press("Enter")
    page.wait_for_selector("#step-1.current")
    assert page.locator("#step-1.branch").count() == 1


def test_three_runs_stand_side_by_side(visitor: Visitor, shown: Viewer) -> None:
    attacked, resisting = (
        next(key for key in shown.keys if key.startswith(name)) for name in ("attacked", "resisting")
    )
    visitor.page.goto(f"{shown.base}#/compare/{attacked}/{resisting}/{resisting}")
    assert "-0.75" in visitor.read(".overview tr:has-text('attack success')")
    visitor.click(".pairs tbody tr >> nth=0")
    visitor.page.wait_for_selector(".beside .boundary:has-text('here they part')")
    assert visitor.page.locator(".beside header > div").count() == 3
    assert "second: resisting, third: resisting" in visitor.read(".beside .shared >> nth=0")


def test_every_control_has_a_name_and_scrolled_regions_take_the_focus(visitor: Visitor) -> None:
    visitor.open_run("attacked")
    visitor.page.wait_for_selector(".injections tbody")
    nameless = visitor.page.eval_on_selector_all(
        "button, a, input, select, [role=button]",
        """all => all.filter(one => !(one.textContent.trim() || one.getAttribute('aria-label')
            || one.labels?.length)).map(one => one.outerHTML)""",
    )
    assert nameless == []
    assert visitor.page.eval_on_selector(".injections .scroll", "one => one.tabIndex") == 0
