"""The viewer's pages in a real Chromium: what a person sees, and what a hostile transcript cannot do."""

import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.viewer.report import write_report
from tests.cluster.viewer.conftest import NEEDS_CHROMIUM, Viewer, look_at
from tests.cluster.viewer.made_up_runs import HOSTILE, mixed_records, write_run

pytestmark = NEEDS_CHROMIUM


def test_from_the_runs_to_the_call_that_the_injection_asked_for(viewer: Viewer) -> None:
    page = viewer.open("/", "text=mixed")
    page.click("a:has-text('mixed')")
    page.click(".tile:has-text('episodes') >> nth=0")
    page.click("tbody a:has-text('injection_task_0') >> nth=0")
    page.wait_for_selector(".call.wanted")
    assert "send_money" in page.inner_text(".call.wanted")
    assert page.inner_text("#step-0 mark.injected").startswith("<INFORMATION>")
    assert "the attack has succeeded" in page.inner_text(".title")
    assert page.inner_text(".boundary") == "weights: version 3 → 4"


def test_keys_move_through_steps_episodes_and_back_to_the_table(viewer: Viewer) -> None:
    page = viewer.open(f"/run/{viewer.keys[0]}/episode/{0:016x}?where=reward%3D0", "#step-0.current")
    page.keyboard.press("j")
    page.wait_for_selector("#step-1.current")
    assert "step=1" in page.url
    page.keyboard.press("k")
    page.wait_for_selector("#step-0.current")
    page.keyboard.press("]")
    page.wait_for_selector("h2:has-text('sample 2')")
    assert "where=reward" in page.url  # the selection goes along
    page.keyboard.press("[")
    page.wait_for_selector("h2:has-text('sample 0')")
    page.keyboard.press("c")
    page.wait_for_selector("text=link copied")
    page.keyboard.press("/")
    page.wait_for_selector("text=8 episodes")
    page.keyboard.press("/")
    page.keyboard.type("emma johnson")
    page.keyboard.press("Enter")
    page.wait_for_selector(".chip:has-text('emma johnson')")
    assert "search=emma" in page.url


def test_state_and_tokens_are_shown_where_they_are_asked_for(viewer: Viewer) -> None:
    page = viewer.open(f"/run/{viewer.keys[0]}/episode/{0:016x}", "#step-1")
    page.click("#step-1 summary:has-text('state after')")
    page.wait_for_selector("#step-1 .state .added")
    assert page.inner_text("#step-1 .state .changed del") == "1810"
    page.click("#step-1 summary:has-text('tokens')")
    colours = page.eval_on_selector_all(
        "#step-1 .sampled span", "spans => spans.map(span => span.style.backgroundColor)"
    )
    assert len(colours) == 4 and colours[0] == "" and len(set(colours)) == 4


def test_two_runs_are_compared_down_to_the_step_on_which_they_part(viewer: Viewer) -> None:
    page = viewer.open("/", "text=second")
    page.check("input[aria-label='compare mixed']")
    page.check("input[aria-label='compare second']")
    page.click("button:has-text('compare')")
    page.wait_for_selector(".differences")
    assert f"/compare/{viewer.keys[0]}/{viewer.keys[3]}" in page.url
    row = page.inner_text(".differences tr:has-text('attack success')")
    assert "-0.75" in row
    page.click(".pairs tbody tr >> nth=0")
    page.wait_for_selector(".beside .boundary:has-text('here they part')")
    page.wait_for_selector(".beside .call.wanted")
    assert "I pay the bill only." in page.inner_text(".beside .two >> nth=2")
    where = page.url
    page.keyboard.press("]")
    page.wait_for_function("(before) => location.href !== before", arg=where)
    viewer.open("/", "select")
    page.select_option("select", "attack_success")
    page.wait_for_selector("figcaption:has-text('attack success by run')")


def test_a_note_is_kept_and_its_tag_selects_episodes(viewer: Viewer) -> None:
    page = viewer.open(f"/run/{viewer.keys[3]}/episode/{2:016x}", "#step-0")
    page.click("summary:has-text('notes')")
    page.fill(".notes input", "look-again, odd")
    with page.expect_response(lambda answer: "resist" in (answer.request.post_data or "")):
        page.fill(".notes textarea", "Why does it resist?")
        page.press(".notes input", "Tab")
    page.wait_for_selector(".notes [role=status]:has-text('kept')")
    viewer.open(f"/run/{viewer.keys[3]}/episodes", "tbody a:text-is('odd')")
    page.click("tbody a:text-is('odd')")
    page.wait_for_selector("text=1 episodes")
    page.click("tbody tr")
    page.wait_for_selector(".notes[open]")
    assert page.input_value(".notes textarea") == "Why does it resist?"
    assert "tag=odd" in page.url


def test_what_is_typed_in_one_field_stays_while_another_is_saved(viewer: Viewer) -> None:
    page = viewer.open(f"/run/{viewer.keys[3]}/episode/{3:016x}", "#step-0")
    page.click("summary:has-text('notes')")
    held: list[Any] = []
    page.route("**/note*", lambda route: held.append(route))
    page.fill(".notes input", "first")
    page.click(".notes textarea")
    page.keyboard.type("It is ")
    held[0].continue_()
    page.wait_for_selector(".notes [role=status]:has-text('kept')")
    page.unroute("**/note*")
    page.keyboard.type("still here.")
    assert page.input_value(".notes textarea") == "It is still here."
    with page.expect_response(lambda answer: "still here" in (answer.request.post_data or "")):
        page.press(".notes textarea", "Tab")


def test_a_hostile_transcript_stays_text(viewer: Viewer) -> None:
    page = viewer.open(f"/run/{viewer.keys[1]}/episode/{50:016x}", "#step-2")
    assert page.evaluate("window.hacked") is None
    assert page.query_selector("#page script, #page img") is None
    shown = page.inner_text("#step-0 .message.assistant")
    assert "<script>window.hacked = true</script>" in shown
    assert page.inner_text(".ansi1 >> nth=0") == "red"
    text = page.evaluate("document.body.textContent")
    assert "\u202e" not in text and "\x1b" not in text and "202E" in text
    viewer.open(f"/run/{viewer.keys[1]}/episodes", "tbody tr")
    assert page.evaluate("window.hacked") is None and HOSTILE[:20] in page.inner_text("tbody")


def test_huge_transcripts_stay_usable(viewer: Viewer) -> None:
    page = viewer.open(f"/run/{viewer.keys[1]}/episode/{51:016x}?step=5000", "#step-5000.current")
    assert page.evaluate("document.querySelectorAll('*').length") < 20_000
    page.keyboard.press("j")
    page.wait_for_selector("#step-5001.current")
    page = viewer.open(f"/run/{viewer.keys[1]}/episode/{52:016x}", "text=of 50,000,")
    assert page.evaluate("document.body.textContent.length") < 500_000


def test_the_page_of_a_run_at_work_grows_by_itself(viewer: Viewer, live_run: Path) -> None:
    page = viewer.open(f"/run/{viewer.keys[2]}/episodes", "text=4 episodes")
    # In a thread of its own, since Playwright runs an event loop in this one.
    writer = threading.Thread(target=write_run, args=(live_run, mixed_records(6)[4:]), kwargs={"planned": 6})
    writer.start()
    writer.join()
    page.wait_for_selector("text=6 episodes")
    viewer.open(f"/run/{viewer.keys[2]}", ".badge:has-text('done')")


def test_a_report_opens_without_a_server(viewer: Viewer, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_report([str(runs / "mixed")], file, ["reward=0"])
    page = viewer.page.context.browser.new_page()
    page.goto(f"file://{file}#/run/{viewer.keys[0]}/episodes")
    page.wait_for_selector("text=8 episodes")
    page.click("tbody a >> nth=0")
    page.wait_for_selector(".call.wanted")
    page.click("#step-1 summary:has-text('state after')")
    page.wait_for_selector("#step-1 .state .added")


def test_a_report_of_two_runs_compares_them_without_a_server(
    viewer: Viewer, runs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    write_report([str(runs / "mixed"), str(runs / "second")], file, [])
    page = viewer.page.context.browser.new_page()
    page.goto(f"file://{file}")
    page.check("input[aria-label='compare mixed']")
    page.check("input[aria-label='compare second']")
    page.click("button:has-text('compare')")
    assert "-0.75" in page.inner_text(".differences tr:has-text('attack success')")
    page.click(".pairs tbody tr >> nth=0")
    page.wait_for_selector(".beside .boundary:has-text('here they part')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_on_their_ground(viewer: Viewer, scheme: str) -> None:
    viewer.page.emulate_media(color_scheme=scheme)
    page = viewer.open(f"/run/{viewer.keys[0]}/episode/{0:016x}", "#step-1")
    contrasts = page.evaluate(
        """() => {
          const light = (text) => {
            const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(Number).map((part) => {
              const share = part / 255;
              return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = light(getComputedStyle(document.body).backgroundColor);
          return ['body', '.dim', '.danger', '.badge.good', '.badge.bad', 'a'].map((name) => {
            const found = document.querySelector(name);
            if (!found) return 21;
            const ink = light(getComputedStyle(found).color);
            return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
          });
        }"""
    )
    assert min(contrasts) >= 4.5, contrasts  # WCAG 2.2, level AA


def test_one_run_alone_is_opened_at_once(browser: Any, runs: Path) -> None:
    with look_at(browser, [runs / "mixed"]) as shown:
        shown.page.wait_for_selector("h2:has-text('run-1')")
        assert "/run/mixed-" in shown.page.url
