"""Runs whose episodes are scored again, without being played."""

import json
from pathlib import Path

import jsonpatch
import pytest
from agentdojo.functions_runtime import FunctionsRuntime
from agentdojo.task_suite.load_suites import get_suite
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.dataset.episodes import iterate_records
from cluster.dataset.manifest import LoopPlace, load_manifest, write_manifest
from cluster.errors import ConfigError
from cluster.rescore import rescore_run
from tests.cluster.synthetic import episode, failed_episode
from tests.cluster.viewer.made_up_runs import write_run
from workers.record_digest import digest_of
from workers.records import (
    EpisodeError,
    EpisodeRecord,
    FunctionCall,
    Message,
    StepRecord,
    ToolCall,
    episode_id,
)

ENVIRONMENT = """
import verifiers as vf
from datasets import Dataset

def load_environment(bonus: float = 0.0):
    async def right(completion, answer):
        if completion[-1].content == "boom":
            raise ValueError("no answer at all")
        return float(completion[-1].content == answer)
    async def length(completion):
        return float(len(completion[-1].content))
    rubric = vf.Rubric(funcs=[right, length], weights=[1.0 + bonus, 0.0])
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(3)]
    return vf.SingleTurnEnv(eval_dataset=Dataset.from_list(rows), rubric=rubric)
"""


def answered(task: int, sample: int, answer: str, **changes: object) -> EpisodeRecord:
    prompt = [Message(role="user", content=f"What is {task} + {task}?")]
    action = Message(role="assistant", content=answer)
    step = StepRecord(step_index=0, prompt_messages=prompt, action=action, observations=[], done=True)
    fields: dict[str, object] = {
        "episode_id": episode_id("sums", str(task), sample),
        "task_id": str(task),
        "group_id": f"run-1/{task}",
        "sample_index": sample,
        "environment": "sums",
        "split": "eval",
        "suite": None,
        "user_task": None,
        "reward": -7.0,
        "metrics": "{}",
        "messages": [*prompt, action],
        "steps": [step],
        "initial_state_id": None,
        "initial_state_patch": None,
    }
    return episode(0, **(fields | changes))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    scoring = EpisodeError(stage="scoring", kind="environment", type="KeyError", message="x")
    records = [
        answered(0, 0, "0"),
        answered(1, 0, "3"),
        answered(1, 1, "2", status="failed", reward=None, error=scoring),
        answered(2, 0, "boom"),
        failed_episode(9, task_id="2", sample_index=1, suite=None, user_task=None),
    ]
    run = write_run(tmp_path / "run", records)
    (tmp_path / "sums.py").write_text(ENVIRONMENT)
    (run / "config.yaml").write_text(
        f"environment: {{id: {tmp_path / 'sums.py'}}}\npolicy: {{kind: endpoint, model: m, base_url: 'http://x'}}\n"
    )
    return run


def test_a_rubric_is_asked_again_over_the_messages(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    found = CliRunner().invoke(app, ["rescore", str(run), "--set", "environment.args.bonus=0.5"])
    assert found.exit_code == 0, found.exception
    assert "scoring 4 episodes of 3 tasks" in found.output
    new = run.with_name("run-rescored")
    manifest = load_manifest(new)
    assert (manifest.run_id, manifest.rescored_from, manifest.planned) == ("run-rescored", "run-1", 5)
    records = {(each.task_id, each.sample_index): each for each in iterate_records(new)}
    rewards = {key: record.reward for key, record in records.items()}
    assert rewards == {("0", 0): 1.5, ("1", 0): 0.0, ("1", 1): 1.5, ("2", 0): None, ("2", 1): None}
    assert json.loads(records["1", 1].metrics) == {"right": 1.0, "length": 1.0, "num_turns": 1.0}
    assert records["1", 1].error is None and records["1", 1].status == "finished"
    failed = records["2", 0].error
    assert failed is not None and failed.stage == "scoring" and "no answer at all" in failed.message
    kept = records["2", 1].error
    assert kept is not None and kept.stage == "setup"
    assert {each.run_id for each in records.values()} == {"run-rescored"}
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert all(each.digest == digest_of(each) for each in records.values())


SPLITS = """
import verifiers as vf
from datasets import Dataset

def load_environment():
    async def first(completions, answers):  # of a group: the first sample alone is rewarded
        return [float(place == 0) * int(answer) for place, answer in enumerate(answers)]
    rows = lambda answer: Dataset.from_list([{"question": "What?", "answer": answer}])
    return vf.SingleTurnEnv(
        dataset=rows("3"), eval_dataset=rows("5"), rubric=vf.Rubric(funcs=[first], weights=[1.0])
    )
"""


@pytest.mark.slow
def test_groups_of_a_trainers_loop_stay_apart_and_each_split_is_scored_by_its_own_rows(
    tmp_path: Path,
) -> None:
    (tmp_path / "sums.py").write_text(SPLITS)
    records = [
        answered(0, sample, "x", group_id=f"run-1/0/{iteration}", split=split, episode_id=f"{sample:016x}")
        for iteration, split, samples in ((1, "train", (0, 1)), (2, "train", (2, 3)), (3, "eval", (4, 5)))
        for sample in samples
    ]
    run = write_run(tmp_path / "run", records)
    manifest = load_manifest(run).model_copy(update={"loop": LoopPlace(iteration=3, sampled=6), "planned": 8})
    write_manifest(run, manifest.model_copy(update={"cancelled": 2}))
    (run / "config.yaml").write_text(
        f"environment: {{id: {tmp_path / 'sums.py'}}}\npolicy: {{kind: endpoint, model: m, base_url: 'http://x'}}\n"
    )
    place, _ = rescore_run(run)
    found = {record.sample_index: record for record in iterate_records(Path(place))}
    assert [found[sample].reward for sample in range(6)] == [3.0, 0.0, 3.0, 0.0, 5.0, 0.0]
    assert [found[sample].group_id for sample in (0, 2, 4)] == [f"run-rescored/0/{n}" for n in (1, 2, 3)]
    made = load_manifest(Path(place))
    assert (made.planned, made.cancelled, made.loop) == (8, 2, manifest.loop)


def test_agentdojos_reward_is_weighed_anew_where_no_states_were_recorded(tmp_path: Path) -> None:
    metrics = '{"utility": 1.0, "attack_success": 1.0, "injected_calls": 2.0}'
    record = episode(0, metrics=metrics, reward=1.0, initial_state_id=None, initial_state_patch=None)
    run = write_run(tmp_path / "run", [record, failed_episode(1)])
    (run / "config.yaml").write_text(
        "environment: {id: agentdojo}\npolicy: {kind: endpoint, model: m, base_url: 'http://x'}\n"
    )
    weights = "environment.args.reward={utility: 1.0, injected_calls: -0.25}"
    _, summary = rescore_run(run, [weights], str(tmp_path / "new"))
    assert (summary.reward, summary.failed, summary.metrics["attack_success"]) == (0.5, 1, 1.0)
    with pytest.raises(ConfigError, match="rewards single steps"):
        rescore_run(run, ["environment.args.reward=utility_and_penalty"], str(tmp_path / "other"))


def bank_episode(**changes: object) -> EpisodeRecord:
    """An episode of AgentDojo's first banking task whose recorded states say that the bill was paid."""
    suite = get_suite("v1.2.2", "banking")
    environment = suite.load_and_inject_default_environment({})
    base = environment.model_dump(mode="json")
    prompt = [Message(role="user", content="Pay the bill")]
    call = suite.get_user_task_by_id("user_task_0").ground_truth(environment)[-1]
    made = ToolCall(
        id="c", function=FunctionCall(name=call.function, arguments=json.dumps(call.args, default=str))
    )
    action = Message(role="assistant", tool_calls=[made])
    FunctionsRuntime(suite.tools).run_function(environment, call.function, call.args)
    patch = jsonpatch.make_patch(base, environment.model_dump(mode="json")).to_string()
    answer = Message(role="tool", content="sent", tool_call_id="c")
    last = Message(role="assistant", content="Paid.")
    steps = [
        StepRecord(step_index=0, prompt_messages=prompt, action=action, observations=[answer], done=False),
        StepRecord(step_index=1, prompt_messages=prompt, action=last, observations=[], done=True),
    ]
    steps[0].state_patch, steps[1].state_patch = patch, "[]"
    fields: dict[str, object] = {
        "metrics": '{"utility": 0.0, "attack_success": null}',
        "reward": 0.0,
        "initial_state_id": "bank",
        "initial_state_patch": "[]",
        "steps": steps,
        "user_task": "user_task_0",
    }
    return episode(0, **(fields | changes))


def bank_run(folder: Path, *records: EpisodeRecord) -> Path:
    base = get_suite("v1.2.2", "banking").load_and_inject_default_environment({}).model_dump(mode="json")
    run = write_run(folder, list(records), states={"bank": json.dumps(base)})
    (run / "config.yaml").write_text(
        "environment: {id: agentdojo}\npolicy: {kind: endpoint, model: m, base_url: 'http://x'}\n"
    )
    return run


def test_agentdojos_checks_are_asked_again_over_the_recorded_states(tmp_path: Path) -> None:
    paid = bank_episode()
    unpaid = bank_episode(episode_id="b", sample_index=1)
    unpaid.steps[0].state_patch = "[]"
    unknown = bank_episode(episode_id="c", sample_index=2)
    unknown.steps[0].state_patch = None
    run = bank_run(tmp_path / "run", paid, unpaid, unknown)
    said: list[str] = []
    new, _ = rescore_run(run, [], str(tmp_path / "new"), said.append)
    rewards = {record.sample_index: record.reward for record in iterate_records(Path(new))}
    assert rewards == {0: 1.0, 1: 0.0, 2: 0.0}
    assert said[0].startswith("2 of 3 episodes scored from their states, 1 with another result")


def test_states_that_agentdojo_here_does_not_know_are_named(tmp_path: Path) -> None:
    run = bank_run(tmp_path / "run", bank_episode(user_task="user_task_999"))
    with pytest.raises(ConfigError, match=r"episode 0+: suite banking has no task 'user_task_999'"):
        rescore_run(run, [], str(tmp_path / "new"))
    alien = '[{"op": "add", "path": "/colour", "value": "red"}]'
    run = bank_run(tmp_path / "alien", bank_episode(initial_state_patch=alien))
    with pytest.raises(ConfigError, match="none of AgentDojo's BankingEnvironment here"):
        rescore_run(run, [], str(tmp_path / "new"))


@pytest.mark.parametrize(
    ("overrides", "out", "says"),
    [
        (["samples=2"], None, "--set samples=2: `kumite rescore` plays nothing"),
        ([], "run", "there is a run in it already"),
        (["environment.args.bonus=much"], "new", "unsupported operand"),
    ],
)
def test_what_cannot_be_scored_again_is_named(
    run: Path, overrides: list[str], out: str | None, says: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        rescore_run(run, overrides, None if out is None else str(run.with_name(out)))
    assert says in str(raised.value)
    assert not run.with_name("new").exists()


def test_a_score_that_needs_the_sandbox_is_refused(run: Path) -> None:
    (run / "config.yaml").write_text(
        "environment: {id: shell}\npolicy: {kind: endpoint, model: m, base_url: 'http://x'}\n"
    )
    with pytest.raises(ConfigError, match="scores in its sandbox"):
        rescore_run(run)
