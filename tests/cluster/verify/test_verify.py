"""`kumite verify`: what it finds in a dataset whose tokens are right, and in ones that are not."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.dataset.durable import RunFolderError
from cluster.errors import PolicyUnavailable
from cluster.policy.models import packaged_model
from cluster.verify.checks import Verification, verify
from cluster.verify.view import make_scorer
from tests.helpers.mock_policy import MockPolicy
from tests.helpers.tiny_tokenizer import make_tokenizer
from tests.helpers.token_runs import template_in, two_turns, write_run
from workers.policy.chat_template import ChatTemplate
from workers.records import EpisodeRecord


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    return template_in(tmp_path_factory.mktemp("tokenizer"))


async def verified(
    folder: Path, record: EpisodeRecord, template: ChatTemplate, **options: Any
) -> Verification:
    return verify(await write_run(folder, [record], model=template.model), **options)


def violated(found: Verification) -> dict[str, int]:
    return {report.rule: report.violations for report in found.rules if report.violations}


@pytest.mark.parametrize("exact", [True, False])
async def test_a_right_dataset_breaks_no_rule(tmp_path: Path, template: ChatTemplate, exact: bool):
    found = await verified(tmp_path, two_turns(template, exact=exact), template)
    assert violated(found) == {}
    assert {report.rule: report.checked for report in found.rules} == {
        "lengths": 2,
        "prompts": 2,
        "append_only": 0,
        "sequences": 1,
        "versions": 1,
        "logprobs": 0,
        "actions": 2,
        "finish": 2,
        "steps": 1,
        "tools": 1,
        "states": 0,
        "rewards": 1,
        "usage": 1,
        "times": 1,
        "episodes": 1,
        "digests": 0,
        "files": 3,
        "counts": 0,
    }


async def test_one_wrong_token_id_of_a_prompt_is_found(tmp_path: Path, template: ChatTemplate):
    record = two_turns(template)
    ids = record.steps[0].prompt_token_ids
    assert ids is not None
    ids[30] += 1
    found = await verified(tmp_path, record, template)
    # Not of the second prompt: it no longer goes on from the first, and is not what the template writes.
    assert violated(found) == {"prompts": 2}
    assert "differs from token 30 on" in found.rules[1].examples[0]


async def test_prompts_are_made_with_what_the_requests_told_the_template(tmp_path: Path):
    thoughtless = packaged_model.TEMPLATE.read_text() + (
        "{% if add_generation_prompt and enable_thinking is false %}<think></think>{% endif %}"
    )
    options = {"enable_thinking": False}
    template = ChatTemplate(str(make_tokenizer(tmp_path / "tokenizer", thoughtless)), options=options)
    record = two_turns(template, exact=False)
    for name, extra_body, violations in (
        ("told", {"chat_template_kwargs": options}, {}),
        ("not told", {}, {"prompts": 2}),
    ):
        sampling = {"extra_body": extra_body}
        run = await write_run(tmp_path / name, [record], model=template.model, sampling=sampling)
        assert violated(verify(run)) == violations


async def test_a_turn_of_an_exact_run_that_was_tokenised_anew_is_found(
    tmp_path: Path, template: ChatTemplate
):
    for exact, violations in ((True, {}), (False, {"append_only": 1})):
        record = two_turns(template, exact=exact)
        folder = await write_run(tmp_path / str(exact), [record], model=template.model, tokens="exact")
        assert violated(verify(folder)) == violations


async def test_observations_that_the_policy_never_saw_are_found(tmp_path: Path, template: ChatTemplate):
    record = two_turns(template)
    record.steps[1].prompt_messages[2].content = "refused"
    assert violated(await verified(tmp_path, record, template)) == {"prompts": 1, "steps": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"completion_logprobs": [-0.5]}, "sampled ids, 1 log-probabilities"),
        ({"completion_logprobs": [0.5] * 52}, "above 0"),
        ({"completion_logprobs": None}, "some of prompt ids, sampled ids and log-probabilities are null"),
    ],
)
async def test_lengths_and_signs_that_do_not_agree_are_found(
    tmp_path: Path, template: ChatTemplate, change: dict[str, Any], said: str
):
    record = two_turns(template)
    sampled = record.steps[0].completion_token_ids or []
    if change["completion_logprobs"] and len(change["completion_logprobs"]) > 1:
        change = {"completion_logprobs": [0.5] * len(sampled)}
    record.steps[0] = record.steps[0].model_copy(update=change)
    found = await verified(tmp_path, record, template)
    assert violated(found) == {"lengths": 1}
    assert said in found.rules[0].examples[0]


async def test_versions_that_go_backwards_are_found(tmp_path: Path, template: ChatTemplate):
    record = two_turns(template)
    record.steps[1].policy_version = 2
    assert violated(await verified(tmp_path, record, template)) == {"versions": 1}


async def test_log_probabilities_of_other_weights_are_found(tmp_path: Path, template: ChatTemplate):
    record = two_turns(template)
    found = await verified(
        tmp_path, record, template, rescore=lambda step: [-0.9] * len(step.completion_logprobs or [])
    )
    assert violated(found) == {"logprobs": 2}
    assert found.largest_difference == pytest.approx(0.4)


async def test_log_probabilities_that_an_iteration_sampled_otherwise_are_not_compared(
    tmp_path: Path, template: ChatTemplate
):
    record = two_turns(template, sampling='{"temperature": 0.0}')
    found = await verified(
        tmp_path, record, template, rescore=lambda step: [-0.9] * len(step.completion_logprobs or [])
    )
    assert violated(found) == {}
    (report,) = (report for report in found.rules if report.rule == "logprobs")
    assert report.not_checked == {"a trainer's loop had it sampled otherwise than the config says": 2}


async def test_steps_without_token_ids_are_counted_as_not_checked(tmp_path: Path, template: ChatTemplate):
    record = two_turns(template)
    for step in record.steps:
        step.prompt_token_ids = step.completion_token_ids = step.completion_logprobs = None
    policy = {"kind": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    found = verify(await write_run(tmp_path, [record], **policy))
    assert violated(found) == {}
    assert found.rules[1].not_checked == {"the policy gave no token ids": 2}


async def test_the_command_exits_with_1_when_a_rule_is_broken(tmp_path: Path, template: ChatTemplate):
    right = await write_run(tmp_path / "right", [two_turns(template)], model=template.model)
    record = two_turns(template)
    record.steps[1].policy_version = 2
    wrong = await write_run(tmp_path / "wrong", [record], model=template.model)
    assert CliRunner().invoke(app, ["verify", str(right)]).exit_code == 0
    told = CliRunner().invoke(app, ["verify", str(wrong)])
    assert told.exit_code == 1
    assert "[3, 2]" in told.output


async def test_a_policy_to_score_with_that_is_not_there_is_named(
    tmp_path: Path, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path / "cache"))
    run = await write_run(tmp_path / "run", [two_turns(template)], model=template.model)
    with pytest.raises(PolicyUnavailable, match="no policy is kept; `kumite policy up`"):
        make_scorer(run, "kept")
    with pytest.raises(PolicyUnavailable, match="no list of models"):
        make_scorer(run, "http://127.0.0.1:9/v1")
    with MockPolicy() as policy, pytest.raises(PolicyUnavailable, match="and it has mock"):
        make_scorer(run, policy.base_url)


def test_a_folder_without_a_run_is_named(tmp_path: Path):
    with pytest.raises(RunFolderError, match="holds no run"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("sampling", "reason"),
    [
        ({"tool_choice": "required"}, "sampled under a grammar (tool_choice `required`)"),
        ({"extra_body": {"response_format": {"type": "json_object"}}}, "sampled with response_format"),
        (
            {"extra_body": {"presence_penalty": 0.5}},
            "sampled with presence_penalty, which depends on what was",
        ),
    ],
)
async def test_what_cannot_be_scored_again_is_counted_with_its_reason(
    tmp_path: Path, template: ChatTemplate, sampling: dict[str, Any], reason: str
):
    run = await write_run(tmp_path / "run", [two_turns(template)], model="mock", sampling=sampling)
    with MockPolicy() as policy:
        found = verify(run, tokenizer=template.model, rescore=make_scorer(run, policy.base_url))
    (report,) = (report for report in found.rules if report.rule == "logprobs")
    assert (report.checked, report.violations, sum(report.not_checked.values())) == (0, 0, 2)
    assert all(said.startswith(reason) for said in report.not_checked), report.not_checked
