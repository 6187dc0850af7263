"""What the viewer's server answers about runs made up by the project's own writer."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster.errors import ConfigError
from cluster.viewer.expected_calls import match_calls
from cluster.viewer.injections import AGENTDOJO_SUITES, find_spans, find_task_calls, injected_texts
from cluster.viewer.library import Library
from cluster.viewer.report import write_report
from cluster.viewer.server import DIST, build_app
from cluster.viewer.state_tree import diff_tree
from tests.cluster.synthetic import episode
from tests.cluster.viewer.made_up_runs import (
    BASE,
    INJECTION,
    attacked_episode,
    hostile_episode,
    injected_state,
    mixed_records,
    resisting_records,
    write_run,
)

PAGE = Path(DIST).parent / "page"


def client_of(*places: Path) -> tuple[TestClient, list[str]]:
    library = Library([str(place) for place in places])
    client = TestClient(build_app(library, "secret", frozenset({"testserver"})))
    client.get("/?token=secret")
    return client, [run.key for run in library.runs]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", mixed_records(), segment_records=5)


def fingerprint(folder: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_only_who_has_the_token_gets_in(run_dir: Path) -> None:
    client = TestClient(build_app(Library([str(run_dir)]), "secret", frozenset({"testserver"})))
    for path in ("/", "/api/runs", "/assets/page.js"):
        assert client.get(path).status_code == 403
    assert client.get("/?token=wrong").status_code == 403
    answer = client.get("/?token=secret", follow_redirects=False)
    assert answer.status_code == 303 and "token" not in answer.headers["location"]
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert client.get("/api/runs").status_code == 200
    assert client.get("/api/runs", headers={"host": "evil.example"}).status_code == 421


def test_nothing_may_be_loaded_from_elsewhere(run_dir: Path) -> None:
    client, _ = client_of(run_dir)
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for file in (DIST / "index.html", *(DIST / "assets").iterdir()):
        text = file.read_text(encoding="utf-8")
        assert "<script>" not in text
        urls = [part for part in text.split("http")[1:] if part.startswith(("://", "s://"))]
        assert all(url.startswith("://www.w3.org/") for url in urls)  # names of XML's, never asked for


def test_another_sites_page_cannot_write_a_note(run_dir: Path) -> None:
    client, (key,) = client_of(run_dir)
    url = f"/api/runs/{key}/episodes/{0:016x}/note"
    assert client.put(url, content="{}", headers={"origin": "http://evil.example"}).status_code == 403


@pytest.mark.slow
def test_the_table_is_filtered_sorted_and_paged(run_dir: Path) -> None:
    client, (key,) = client_of(run_dir)

    def rows(query: str) -> dict[str, Any]:
        answer = client.get(f"/api/runs/{key}/episodes?{query}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert rows("")["total"] == 24
    assert rows("where=status=failed")["total"] == 3
    assert rows("where=status=failed&where=error_stage=setup")["total"] == 3
    assert rows("where=metric.attack_success=1")["total"] == 12
    assert rows("where=reward>=1")["total"] == 9
    assert rows("where=reward=")["total"] == 3
    assert rows("where=task_id~USER_task_0/inj")["total"] == 12
    assert rows("search=emma JOHNSON")["total"] == 12  # in a tool's result
    assert rows("search=read_file")["total"] == 12  # the name of a tool
    assert rows("search=nowhere to be found")["total"] == 0
    ordered = rows("sort=-metric.utility&first=2&count=4")
    assert len(ordered["rows"]) == 4 and ordered["first"] == 2
    assert [row["metric.utility"] for row in ordered["rows"]] == [1.0] * 4
    assert rows("sort=reward&first=23")["rows"][0]["reward"] is None  # nulls last
    for query, said in (("where=colour=1", "colour"), ("where=reward=high", "high"), ("sort=x", "'x'")):
        answer = client.get(f"/api/runs/{key}/episodes?{query}")
        assert answer.status_code == 400 and said in answer.json()["error"]


def test_tasks_are_grouped_with_their_pass_rates(run_dir: Path) -> None:
    client, (key,) = client_of(run_dir)
    answer = client.get(f"/api/runs/{key}/episodes?by=task&sort=-pass_rate").json()
    first = answer["rows"][0]
    assert first["task_id"].startswith("t") and first["pass_rate"] == 1.0
    assert sum(row["samples"] for row in answer["rows"]) == 24
    assert sum(row["failed"] for row in answer["rows"]) == 3


def test_two_runs_are_compared(run_dir: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", resisting_records())
    client, (first, second) = client_of(run_dir, other)
    found = client.get(f"/api/compare/{first}/{second}").json()
    (attack,) = [row for row in found["pairs"][0]["metrics"] if row["metric"] == "attack_success"]
    assert (attack["pairs"], attack["first"], attack["second"]) == (12, 1.0, 0.25)
    assert (attack["gained"], attack["lost"], attack["tasks_up"], attack["tasks_down"]) == (0, 9, 0, 6)
    assert attack["sign_p"] == 2 / 2**6
    assert found["differing"] == len(found["rows"]) == 9
    row = found["rows"][0]
    assert row["difference"] == 1.0 and row["sides"][0]["episode_id"] == row["sides"][1]["episode_id"]
    assert client.get(f"/api/compare/{first}/nothing").status_code == 404
    lone = write_run(tmp_path / "lone", [episode(99, task_id="elsewhere", suite=None)])
    client, (first, second) = client_of(run_dir, lone)
    answer = client.get(f"/api/compare/{first}/{second}")
    assert answer.status_code == 400 and "runs of the same tasks" in answer.json()["error"]


def test_an_episode_is_shown_with_its_attack(run_dir: Path) -> None:
    AGENTDOJO_SUITES.wait()
    client, (key,) = client_of(run_dir)
    url = f"/api/runs/{key}/episodes/{0:016x}"
    head = client.get(url).json()
    assert [cut["text"] for cut in head["injected"]] == [INJECTION]
    assert [line["injected_call"] for line in head["outline"]] == [False, True, False]
    assert [line["changes_state"] for line in head["outline"]] == [False, True, False]
    assert head["wanted_pending"] is False
    steps = client.get(f"{url}/steps").json()
    answer = steps[0]["observations"][0]
    ((start, end),) = answer["injected"]
    marked = answer["content"]["text"][start:end]
    assert marked.startswith("<INFORMATION>") and marked.endswith("</INFORMATION>")
    assert steps[0]["calls"][0]["answer"] == 0 and steps[1]["calls"][0]["injected"]
    assert steps[0]["reasoning"]["text"] == "First I read the bill."
    assert steps[0]["context"] is None
    assert steps[1]["tokens"]["sampled"] == [7, 8, 9, 10]
    tree = dict(client.get(f"{url}/state?step=1").json()["tree"]["object"])
    account = dict(tree["bank_account"]["object"])
    assert account["balance"] == {"from": 1810.0, "to": 1809.99}
    assert account["transactions"]["array"][1][1]["added"]["recipient"].startswith("US133")


def test_an_episode_that_failed_and_one_without_states_are_shown(tmp_path: Path) -> None:
    records = [episode(0, initial_state_id=None, initial_state_patch=None), mixed_records(8)[7]]
    client, (key,) = client_of(write_run(tmp_path / "run", records, states={}))
    plain = client.get(f"/api/runs/{key}/episodes/{0:016x}").json()
    assert plain["has_state"] is False and plain["notice"] is None
    failed = client.get(f"/api/runs/{key}/episodes/{7:016x}").json()
    assert failed["error"]["stage"] == "setup" and failed["outline"] == []
    assert client.get(f"/api/runs/{key}/episodes/nothing").status_code == 404


def test_a_run_at_work_is_read_from_its_journal_and_grows(tmp_path: Path) -> None:
    records = mixed_records(6)
    run = write_run(tmp_path / "run", records[:4], commit=False, planned=6)
    client, (key,) = client_of(run)
    before = client.get(f"/api/runs/{key}/progress").json()
    assert before["episodes"] == 4 and before["state"] == "live"
    write_run(run, records[4:], planned=6)
    library = Library([str(run)])
    assert library.run(key).progress() == {"version": 1, "episodes": 6, "state": "done"}
    assert client.get(f"/api/runs/{key}/episodes/{2:016x}").json()["sample_index"] == 2


def test_looking_changes_nothing_in_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", mixed_records(8))
    before = fingerprint(run)
    client, (key,) = client_of(run)
    episode_url = f"/api/runs/{key}/episodes/{0:016x}"
    for path in (
        "/api/runs",
        f"/api/runs/{key}",
        episode_url,
        f"{episode_url}/steps",
        f"{episode_url}/state",
    ):
        assert client.get(path).status_code == 200
    note = {"tags": ["look-again"], "text": "Why does it trust the bill?"}
    assert client.put(f"{episode_url}/note", content=json.dumps(note)).status_code == 200
    assert fingerprint(run) == before
    assert (tmp_path / "run.notes.json").exists()
    assert client.get(episode_url).json()["note"] == note
    tagged = client.get(f"/api/runs/{key}/episodes?tag=look-again").json()
    assert [row["episode_id"] for row in tagged["rows"]] == [f"{0:016x}"]
    assert write_report([str(run)], tmp_path / "report.html", ["tag=look-again"]) == 1
    assert "Why does it trust the bill?" in (tmp_path / "report.html").read_text()
    client.put(f"{episode_url}/note", content="{}")
    assert client.get(f"/api/runs/{key}/episodes?tag=look-again").json()["total"] == 0
    assert client.put(f"{episode_url}/note", content='{"colour": 1}').status_code == 400


def test_a_runs_page_has_intervals_and_plots(run_dir: Path) -> None:
    (run_dir / "metrics.jsonl").write_text('{"elapsed": 0.0, "finished": 1}\n{"elapsed": 1, "fini')
    client, (key,) = client_of(run_dir)
    found = client.get(f"/api/runs/{key}").json()
    mean = found["means"]["metric.attack_success"]
    assert mean["value"] == 1.0 and 0.6 < mean["low"] < 0.62 and (mean["episodes"], mean["tasks"]) == (12, 6)
    assert found["histograms"]["reward"] == {"edges": [0.0, 1.0], "counts": [12, 9]}
    assert found["counts"]["error_stage"] == [["setup", 3]]
    (cell,) = found["heat"]["attack_success"]
    assert cell["user_task"] == "user_task_0" and cell["episodes"] == 12
    assert found["series"] == [{"elapsed": 0.0, "finished": 1}]


def test_runs_of_a_folder_are_found_and_what_is_none_is_said(tmp_path: Path, run_dir: Path) -> None:
    write_run(tmp_path / "deep" / "one", mixed_records(2))
    write_run(tmp_path / "two", mixed_records(4))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{")
    client, _ = client_of(tmp_path)
    runs = {run["name"].rpartition("/")[2]: run for run in client.get("/api/runs").json()}
    assert set(runs) == {"one", "two", "broken"}
    assert runs["two"]["summary"]["finished"] == 4 and "manifest" in runs["broken"]["error"]
    write_run(tmp_path / "three", mixed_records(2))
    assert len(client.get("/api/runs").json()) == 4
    with pytest.raises(ConfigError, match=r"holds no run.*manifest\.json"):
        Library([str(tmp_path / "nothing")])


@pytest.mark.slow
def test_long_texts_and_many_steps_come_in_parts(tmp_path: Path) -> None:
    records = [hostile_episode(1, output=3_000_000), hostile_episode(2, steps=2_000)]
    client, (key,) = client_of(write_run(tmp_path / "run", records))
    long = client.get(f"/api/runs/{key}/episodes/{1:016x}/steps")
    assert len(long.content) < 200_000
    assert long.json()[0]["observations"][0]["content"]["length"] > 3_000_000
    whole = client.get(f"/api/runs/{key}/episodes/{1:016x}/text?step=0&part=observation.0")
    assert whole.headers["content-type"].startswith("text/plain") and len(whole.text) > 3_000_000
    many = client.get(f"/api/runs/{key}/episodes/{2:016x}/steps?first=1990&count=1000").json()
    assert [step["index"] for step in many] == list(range(1990, 2000))
    assert client.get(f"/api/runs/{key}/episodes/{2:016x}/text?step=9999&part=action").status_code == 404


def test_injected_text_is_found_however_it_is_printed() -> None:
    (injected,) = injected_texts(BASE, injected_state())
    assert injected == INJECTION
    as_json = json.dumps({"body": f"Hello. {INJECTION} Bye."})
    wrapped = INJECTION.replace(" ", "\n    ")
    for text in (f"a {INJECTION} b", as_json, f"a: {wrapped}\nb: 1"):
        ((start, end),) = find_spans(text, [injected])
        assert text[start:end].startswith("<INFORMATION>") and text[start:end].endswith("</INFORMATION>")
    assert find_spans(f"{INJECTION} and {INJECTION}", [injected])[1][0] > len(INJECTION)
    assert find_spans("Bill for the month", [injected]) == []


def test_the_injections_calls_are_told_from_the_users() -> None:
    task = ("injection_task_0", "user_task_0", injected_state(), [INJECTION])
    calls = find_task_calls("v1.2.2", "banking", *task)
    (call,) = calls.injected
    made = attacked_episode().steps[1].action.tool_calls or []
    assert call.is_made_by(made[0].function.name, made[0].function.arguments)
    assert not call.is_made_by("send_money", '{"recipient": "UK12345678901234567890", "amount": 98.7}')
    assert not call.is_made_by("send_money", "no JSON") and not call.is_made_by("send_money", "[]")
    own = [
        (one.call.function, one.step, one.other_step) for one in match_calls(calls.own, attacked_episode())
    ]
    assert own == [("read_file", None, 0), ("send_money", None, 1)]
    unknown = find_task_calls("v1.2.2", "banking", "injection_task_99", None, BASE, [])
    assert (unknown.own, unknown.injected) == ([], [])


def test_a_list_that_lost_an_element_marks_only_that() -> None:
    tree = diff_tree([{"id": 1}, {"id": 2}, {"id": 3}], [{"id": 1}, {"id": 3}])
    kinds = [next(iter(node)) for _, node in tree["array"]]
    assert kinds == ["same", "removed", "same"]
    assert diff_tree({"a": True}, {"a": 1}) == {"object": [["a", {"from": True, "to": 1}]]}


@pytest.mark.slow
def test_a_report_holds_the_pages_and_nothing_that_ends_its_script(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [*mixed_records(8), hostile_episode(50)])
    count = write_report([str(run)], tmp_path / "report.html", [])
    text = (tmp_path / "report.html").read_text()
    assert count == 9 and text.count("</script>") == 3
    assert "as before (" in text and f"episodes/{0:016x}/state?step=1" in text
    assert write_report([str(run)], tmp_path / "report.html", ["status=failed"]) == 1
    with pytest.raises(ConfigError, match="colour"):
        write_report([str(run)], tmp_path / "report.html", ["colour=1"])
    many = write_run(tmp_path / "many", [episode(number) for number in range(501)])
    with pytest.raises(ConfigError, match="select fewer"):
        write_report([str(many)], tmp_path / "report.html", [])


@pytest.mark.slow
def test_the_built_page_is_what_the_sources_give(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None or not (PAGE / "node_modules").exists():
        pytest.skip("needs Node.js, and what `make viewer` installs")
    build = [npm, "exec", "vite", "--", "build", "--outDir", str(tmp_path / "dist"), "--emptyOutDir"]
    subprocess.run(build, cwd=PAGE, check=True, capture_output=True, timeout=600)
    built = {
        path.relative_to(tmp_path / "dist"): path.read_bytes() for path in (tmp_path / "dist").rglob("*.*")
    }
    kept = {path.relative_to(DIST): path.read_bytes() for path in DIST.rglob("*.*")}
    assert built == kept, "run `make viewer`, and commit cluster/viewer/dist"


@pytest.mark.slow
def test_the_pages_sources_have_types_and_no_lint() -> None:
    npm = shutil.which("npm")
    if npm is None or not (PAGE / "node_modules" / "oxlint").exists():
        pytest.skip("needs Node.js, and what `make viewer` installs")
    found = subprocess.run([npm, "run", "check"], cwd=PAGE, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout + found.stderr
