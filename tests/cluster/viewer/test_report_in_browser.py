"""A report as its reader has it: one file in a real Chromium, without a server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.viewer.report import write_report
from tests.cluster.viewer.conftest import NEEDS_CHROMIUM, Viewer, look_at
from tests.cluster.viewer.made_up_agents import trained_records
from tests.cluster.viewer.made_up_runs import mixed_records, write_run

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, a report of both, and one of a task of the second."""
    made = tmp_path_factory.mktemp("runs")
    write_run(made / "mixed", mixed_records(16))
    write_run(made / "trained", trained_records())
    write_report([str(made)], made / "report.html", [])
    write_report([str(made / "trained")], made / "one-task.html", ["task_id=sum-0"])
    return made


@pytest.fixture(scope="module")
def shown(browser: Any, folder: Path) -> Iterator[Viewer]:
    with look_at(browser, [folder]) as viewer:
        yield viewer


def new_page(shown: Viewer) -> Any:
    """One more page of the same browser."""
    browser = shown.page.context.browser
    assert browser is not None
    return browser.new_page(viewport={"width": 1280, "height": 900})


@pytest.fixture
def report(shown: Viewer, folder: Path) -> Iterator[Any]:
    page = new_page(shown)
    page.goto(f"file://{folder / 'report.html'}")
    page.wait_for_selector("tbody tr")
    yield page
    page.close()


def key_of(shown: Viewer, name: str) -> str:
    return next(key for key in shown.keys if key.startswith(name))


def read_rows(page: Any, query: str) -> list[str]:
    """The rows of the table that an address has, once they are those of this address."""
    page.evaluate("() => { location.hash = '#/' }")
    page.wait_for_selector("h2:text-is('Runs')")
    page.evaluate("(address) => { location.hash = address }", query)
    page.wait_for_selector("main [aria-label=Episodes] thead")
    return page.eval_on_selector_all("tbody tr", "rows => rows.map(row => row.innerText)")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "where=reward%3C1&sort=-turns",
        "where=metric.attack_success%3D",
        "where=error_stage!%3D&where=status~FAIL",
        "where=status!%3Dfailed&where=task_id~important&sort=sample_index",
        "search=EMMA+johnson",
        "search=read_file&where=suite%3Dbanking",
        "by=task",
        "by=task&sort=-reward_deviation&where=reward%3E%3D0",
        "tag=none",
    ],
)
def test_a_table_of_a_report_has_the_rows_that_the_server_gives(
    shown: Viewer, report: Any, query: str
) -> None:
    address = f"#/run/{key_of(shown, 'mixed')}/episodes?{query}"
    assert read_rows(report, address) == read_rows(shown.page, address)


def test_a_filter_that_cannot_be_is_named(shown: Viewer, report: Any) -> None:
    address = f"#/run/{key_of(shown, 'mixed')}/episodes?where=rewrad%3D1"
    report.evaluate("(address) => { location.hash = address }", address)
    report.wait_for_selector("[role=alert]:has-text(\"there is no column 'rewrad'\")")


def test_episodes_of_a_report_follow_each_other_as_the_selection_has_them(shown: Viewer, report: Any) -> None:
    run = key_of(shown, "mixed")
    report.evaluate(
        "(hash) => { location.hash = hash }", f"#/run/{run}/episodes?where=reward%3D1&sort=-turns"
    )
    report.click("tbody tr >> nth=0")
    report.wait_for_selector("#step-0")
    first = report.url
    report.keyboard.press("]")
    report.wait_for_function("(before) => location.href !== before", arg=first)
    assert "where=reward" in report.url and f"/episode/{3:016x}" in report.url


def test_a_report_compares_versions_of_the_weights(shown: Viewer, report: Any) -> None:
    report.click("tbody a:text-is('trained')")
    report.click("button:has-text('compare task by task')")
    report.wait_for_selector(".differences")
    assert "+0.667" in report.inner_text(".differences tr:has-text('right')")
    report.click(".pairs tbody tr >> nth=0")
    report.wait_for_selector(".beside")
    assert "version 3" in report.inner_text(".beside")
    report.click("a:has-text('The other way round')")
    report.wait_for_selector(".differences td:has-text('-0.667')")


def test_what_a_report_lacks_is_no_link(shown: Viewer, folder: Path) -> None:
    page = new_page(shown)
    page.goto(f"file://{folder / 'one-task.html'}")
    page.wait_for_selector("figure:has-text('samples disagree') tbody tr")
    assert page.locator("figure:has-text('samples disagree') tbody a").count() == 0
    page.click("button:has-text('compare task by task')")
    page.wait_for_selector("text=8 pairs differ")
    page.wait_for_selector("text=The report holds the transcripts of 0 of them.")
    page.close()
