"""Each key of the viewer, on each page that has it, in a real Chromium."""

from pathlib import Path
from typing import Any

from tests.cluster.synthetic import episode
from tests.cluster.viewer.conftest import NEEDS_CHROMIUM, Viewer, look_at
from tests.cluster.viewer.made_up_runs import write_run

pytestmark = NEEDS_CHROMIUM
PRESS_ALL = """
keys => keys.forEach(key => document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true})))
"""


def test_c_copies_the_address_of_each_page(viewer: Viewer) -> None:
    mixed, _, _, second = viewer.keys
    viewer.page.context.grant_permissions(
        ["clipboard-read", "clipboard-write"], origin=viewer.base.rstrip("/")
    )
    for path, waits_for in (
        ("/", "tbody tr"),
        (f"/run/{mixed}", ".tiles"),
        (f"/run/{mixed}/episodes?where=reward%3D0", "tbody tr"),
        (f"/run/{mixed}/episode/{0:016x}", "#step-0.current"),
        (f"/run/{mixed}/samples/{0:016x}", ".beside"),
        (f"/compare/{mixed}/{second}", ".differences"),
    ):
        page = viewer.open(path, waits_for)
        page.keyboard.press("c")
        page.wait_for_function("navigator.clipboard.readText().then((text) => text === location.href)")
        page.wait_for_selector("[role=status]:has-text('link copied')")


def test_j_k_and_enter_go_through_the_rows_of_runs_and_of_episodes(viewer: Viewer) -> None:
    page = viewer.open("/", "tbody tr")
    for key, row in (("j", 0), ("j", 1), ("k", 0)):
        page.keyboard.press(key)
        page.wait_for_selector(f"tbody tr:nth-child({row + 1}).current")
    page.keyboard.press("Enter")
    page.wait_for_selector(".tiles")
    assert f"/run/{viewer.keys[0]}" in page.url
    viewer.open(f"/run/{viewer.keys[0]}/episodes", "tbody tr")
    for key, row in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        page.wait_for_selector(f"tbody tr:nth-child({row + 1}).current")
    page.keyboard.press("Enter")
    page.wait_for_selector("#step-0")
    assert f"/episode/{1:016x}" in page.url


def test_enter_presses_the_button_that_has_the_focus(viewer: Viewer) -> None:
    page = viewer.open(f"/run/{viewer.keys[0]}/episodes", "tbody tr")
    page.focus("button:text-is('by task')")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=8 tasks")


def test_brackets_turn_the_pages_of_a_table_and_its_current_row_stays_in_sight(
    browser: Any, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "many", [episode(number) for number in range(150)])
    with look_at(browser, [run]) as viewer:
        page = viewer.open(f"/run/{viewer.keys[0]}/episodes", "text=1 to 100")
        page.keyboard.press("[")  # there is none before
        page.keyboard.press("]")
        page.wait_for_selector("text=101 to 150")
        page.keyboard.press("]")  # nor one after
        assert "page=1" in page.url
        page.keyboard.press("[")
        page.wait_for_selector("text=1 to 100")
        for _ in range(60):
            page.keyboard.press("j")
        page.wait_for_selector("tbody tr:nth-child(60).current")
        box = page.locator("tr.current").bounding_box()
        assert box is not None and 0 < box["y"] < 900


def test_keys_that_come_faster_than_the_page_is_drawn_all_count(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "many", [episode(number) for number in range(250)])
    with look_at(browser, [run]) as viewer:
        page = viewer.open(f"/run/{viewer.keys[0]}/episodes", "text=1 to 100")
        page.evaluate(PRESS_ALL, ["j"] * 40 + ["k"] * 5)
        page.wait_for_selector("tbody tr:nth-child(35).current")
        page.evaluate(PRESS_ALL, ["]", "]"])
        page.wait_for_selector("text=201 to 250")
        page.evaluate(PRESS_ALL, ["[", "]", "["])
        page.wait_for_selector("text=101 to 200")
        page.evaluate(PRESS_ALL, ["j", "j", "j", "Enter"])
        page.wait_for_selector("#step-0")
        assert f"/episode/{102:016x}" in page.url


def test_steps_and_compared_rows_are_gone_through_as_fast_as_keys_come(viewer: Viewer) -> None:
    mixed, _, _, second = viewer.keys
    page = viewer.open(f"/run/{mixed}/episode/{0:016x}", "#step-0.current")
    steps = page.locator("article.step").count()
    assert steps > 2
    page.evaluate(PRESS_ALL, ["j", "j", "k", "j"])
    page.wait_for_selector("#step-2.current")
    page = viewer.open(f"/compare/{mixed}/{second}", ".pairs tbody tr")
    page.evaluate(PRESS_ALL, ["]", "]", "]", "["])
    page.wait_for_selector(".pairs tbody tr:nth-child(2).current")


def test_brackets_go_through_the_rows_of_a_comparison(viewer: Viewer) -> None:
    mixed, _, _, second = viewer.keys
    page = viewer.open(f"/compare/{mixed}/{second}", ".pairs tbody tr")
    page.click(".pairs tbody tr >> nth=0")
    page.wait_for_selector(".pairs tbody tr:nth-child(1).current")
    page.keyboard.press("]")
    page.wait_for_selector(".pairs tbody tr:nth-child(2).current")
    page.keyboard.press("[")
    page.wait_for_selector(".pairs tbody tr:nth-child(1).current")
