"""`kumite verify` flags nothing that is right: what vLLM renders in its own way, what was on another day."""

import os
import shutil
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.dataset.manifest import load_manifest, manifest_path, manifest_text
from cluster.verify.checks import Verification, verify
from cluster.verify.token_rules import check_zeros
from tests.helpers.tiny_tokenizer import make_tokenizer
from tests.helpers.token_runs import template_in, two_turns, write_run
from workers.policy.chat_messages import prepare_messages
from workers.policy.chat_template import ChatTemplate
from workers.records import Message, StepRecord
from workers.settings import SamplingSettings

# What distinguishes templates of LFM2, R1-Distill and Phi-3: they take content for a text wherever it is.
STRICT = (
    "{{ tools }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ '<tool_call>' + c | tojson }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Qwen3-VL, Gemma 4, SmolVLM: content is gone through part by part.
IN_PARTS = (
    "{{ tools }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['content'] is string %}"
    "{{ 'TEXT' + m['content'] }}{% else %}{% for part in m['content'] %}{{ 'PART' + part['text'] }}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DATED = "{{ strftime_now('%d %B %Y') }}" + STRICT
TIMED = "{{ strftime_now('%H:%M') }}" + STRICT


def complaints(found: Verification) -> dict[str, list[str]]:
    return {report.rule: report.examples for report in found.rules if report.violations}


def skipped(found: Verification, rule: str) -> dict[str, int]:
    (report,) = (report for report in found.rules if report.rule == rule)
    return report.not_checked


def model(folder: Path, template: str) -> ChatTemplate:
    return ChatTemplate(str(make_tokenizer(folder / "model", template)))


@pytest.mark.parametrize(
    ("temperature", "tokens", "is_right"),
    [(1.0, 20, False), (1.0, 5, True), (0.1, 20, True), (0.7, 20, True), (0.0, 20, False)],
)
def test_a_policy_may_be_certain_of_a_short_answer_and_of_any_at_a_low_temperature(
    temperature: float, tokens: int, is_right: bool
):
    """vLLM divides logits by the temperature, but not those of greedy sampling."""
    step = StepRecord(
        step_index=0,
        prompt_messages=[],
        action=Message(role="assistant"),
        observations=[],
        done=True,
        completion_logprobs=[0.0] * tokens,
    )
    complaint = check_zeros(step, SamplingSettings(temperature=temperature), {})
    assert (complaint is None) == is_right


@pytest.mark.parametrize("content", [None, ""])
async def test_null_content_with_calls_is_rendered_as_empty(tmp_path: Path, content: str | None):
    template = model(tmp_path, STRICT)
    record = two_turns(template, exact=False)
    for message in (record.steps[0].action, record.steps[1].prompt_messages[1], record.messages[1]):
        message.content = content
    text = template.decode(record.steps[1].prompt_token_ids or [])
    assert '<tool_call>{"id": "c1", "function": {"arguments": {}, "name": "pay"}, "type": "function"}' in text
    assert complaints(verify(await write_run(tmp_path / "run", [record], model=template.model))) == {}


async def test_content_is_rendered_as_parts_where_the_template_takes_parts(tmp_path: Path):
    template = model(tmp_path, IN_PARTS)
    record = two_turns(template, exact=False)
    text = template.decode(record.steps[1].prompt_token_ids or [])
    assert "user\nPARTPay Bob." in text and "tool\nTEXTpaid" in text
    assert complaints(verify(await write_run(tmp_path / "run", [record], model=template.model))) == {}


async def test_a_template_that_writes_the_date_is_rendered_on_the_runs_day(tmp_path: Path):
    template = model(tmp_path, DATED)
    then = datetime(2025, 2, 3, 12, tzinfo=UTC)
    with template.at(then):
        record = two_turns(template, exact=False, started_at=then.timestamp())
    assert "03 February 2025" in template.decode(record.steps[0].prompt_token_ids or [])
    assert complaints(verify(await write_run(tmp_path / "run", [record], model=template.model))) == {}
    with template.at(datetime(2025, 2, 7, tzinfo=UTC)):
        other = two_turns(template, exact=False, started_at=then.timestamp())
    found = verify(await write_run(tmp_path / "other", [other], model=template.model))
    assert list(complaints(found)) == ["prompts"]


async def test_a_template_that_writes_the_time_of_day_is_told_not_to_be_checked(tmp_path: Path):
    template = model(tmp_path, TIMED)
    with template.at(datetime(2025, 2, 3, 7, 7, tzinfo=UTC)):
        record = two_turns(template, exact=False)
    found = verify(await write_run(tmp_path / "run", [record], model=template.model))
    assert complaints(found) == {}
    assert skipped(found, "prompts") == {"the model's template writes the time of day": 2}


async def test_an_episode_with_its_own_sampling_is_rendered_by_it(tmp_path: Path):
    thinking = STRICT + "{% if enable_thinking is false %}<think></think>{% endif %}"
    made = model(tmp_path, thinking)
    told = ChatTemplate(made.model, options={"enable_thinking": False})
    own = '{"extra_body": {"chat_template_kwargs": {"enable_thinking": false}}}'
    records = [two_turns(told, 1, exact=False, sampling=own), two_turns(made, 2, exact=False)]
    assert complaints(verify(await write_run(tmp_path / "run", records, model=made.model))) == {}


async def test_a_relative_template_and_a_model_in_the_home_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    plain = template_in(tmp_path / "model")
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "own.jinja").write_text(STRICT)
    template = ChatTemplate(plain.model, STRICT)
    record = two_turns(template, exact=False)
    policy = {"model": "~/model", "chat_template": "templates/own.jinja"}
    run = await write_run(tmp_path / "runs" / "run", [record], **policy)
    monkeypatch.chdir("/")
    assert complaints(verify(run)) == {}
    (tmp_path / "templates" / "own.jinja").unlink()
    found = verify(run)
    assert complaints(found) == {}
    (reason,) = skipped(found, "prompts")
    assert "templates/own.jinja" in reason and "not found" in reason


@pytest.mark.parametrize("detects", [True, False])
async def test_a_turn_that_repetition_detection_has_ended_is_right(tmp_path: Path, detects: bool):
    template = template_in(tmp_path / "model")
    record = two_turns(template, is_truncated=True)
    last = record.steps[1]
    assert last.completion_token_ids and last.completion_logprobs and last.usage
    last.completion_token_ids.pop()  # the end token
    last.completion_logprobs.pop()
    last.usage.completion_tokens -= 1
    record.usage.completion_tokens -= 1
    last.finish_reason = "length"
    extra = {"repetition_detection": {"max_pattern_size": 8, "min_count": 4}} if detects else {}
    sampling = {"max_tokens": 512, "extra_body": extra}
    run = await write_run(
        tmp_path / "run", [record], model=template.model, max_model_len=4096, sampling=sampling
    )
    assert list(complaints(verify(run))) == ([] if detects else ["finish"])


async def test_a_call_that_was_sampled_with_other_spacing_is_right(tmp_path: Path):
    template = template_in(tmp_path / "model")
    record = two_turns(template)
    assert '{"name":"pay"' in template.decode(record.steps[0].completion_token_ids or [])
    run = await write_run(tmp_path / "run", [record], model=template.model, tokens="exact")
    assert complaints(verify(run)) == {}


async def test_gpt_oss_is_told_not_to_be_checked_where_harmony_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TIKTOKEN_ENCODINGS_BASE", str(tmp_path / "nowhere"))
    template = template_in(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt_oss"}')
    monkeypatch.setattr("cluster.verify.prompts.harmony_prompt", _no_harmony)
    found = verify(await write_run(tmp_path / "run", [two_turns(template)], model=template.model))
    assert complaints(found) == {}
    (reason,) = skipped(found, "prompts")
    assert "Harmony" in reason
    assert sum(skipped(found, "actions").values()) == 2


def _no_harmony(*_: Any) -> list[int]:
    from cluster.verify.report import NotChecked

    raise NotChecked("vLLM renders gpt-oss by Harmony, which cannot be had here")


async def test_a_tokenizer_that_is_gone_leaves_the_other_rules_to_be_checked(tmp_path: Path):
    template = template_in(tmp_path / "model")
    run = await write_run(tmp_path / "run", [two_turns(template)], model=template.model)
    os.rename(tmp_path / "model", tmp_path / "moved")
    found = verify(run)
    assert complaints(found) == {}
    (reason,) = skipped(found, "prompts")
    assert "cannot be had" in reason
    assert complaints(verify(run, tokenizer=str(tmp_path / "moved"))) == {}


async def test_messages_with_images_are_told_not_to_be_checked(tmp_path: Path):
    template = template_in(tmp_path / "model")
    record = two_turns(template)
    picture = '[{"type": "image_url", "image_url": {"url": "data:,"}}]'
    for messages in (record.messages, *(step.prompt_messages for step in record.steps)):
        messages[0].content = picture
    found = verify(await write_run(tmp_path / "run", [record], model=template.model))
    assert complaints(found) == {}
    assert skipped(found, "prompts") == {"a message has parts other than text": 2}


async def test_a_check_that_breaks_down_is_a_finding_in_a_sentence(tmp_path: Path):
    template = template_in(tmp_path / "model")
    record = two_turns(template, metrics="no JSON", tool_schemas="[{]")
    found = verify(await write_run(tmp_path / "run", [record], model=template.model))
    assert set(complaints(found)) >= {"prompts", "rewards"}
    assert "the check breaks down on it with JSONDecodeError" in complaints(found)["rewards"][0]


async def test_an_interrupted_run_is_right(tmp_path: Path):
    template = template_in(tmp_path / "model")
    run = await write_run(tmp_path / "run", [two_turns(template)], model=template.model)
    manifest = (run / "manifest.json").read_text().replace('"planned": null', '"planned": 9')
    (run / "manifest.json").write_text(manifest)
    found = verify(run)
    assert complaints(found) == {}
    assert skipped(found, "counts") == {"the run has not come to its end": 1, "there is no summary": 1}


def line(text: bytes, *, checksum: int | None = None) -> bytes:
    """A line of the journal, the first one of its batch."""
    return b"%08x %b\n" % (zlib.crc32(text) if checksum is None else checksum, text)


@pytest.mark.parametrize("after", ["a later batch", "a later segment"])
async def test_a_damaged_journal_is_a_finding(tmp_path: Path, after: str):
    template = template_in(tmp_path / "model")
    run = await write_run(tmp_path / "run", [two_turns(template)], model=template.model)
    damaged = line(b"{}", checksum=0)
    whole = line(two_turns(template).model_dump_json().encode())
    (run / "journal" / "000007.jsonl").write_bytes(damaged + (whole if after == "a later batch" else b""))
    if after == "a later segment":
        (run / "journal" / "000008.jsonl").write_bytes(whole)
    assert "CRC-32" in complaints(verify(run))["files"][0]


async def test_what_killed_writers_were_writing_is_right(tmp_path: Path):
    """The last batch of each writer may be torn, and the files that a killed one leaves may be there."""
    template = template_in(tmp_path / "model")
    run = await write_run(tmp_path / "run", [two_turns(template)], model=template.model)
    before = load_manifest(run)
    old = before.shards[0].episodes_file
    shutil.copy(run / old, run / "episodes" / "000001-old.parquet")
    segment = "000007-w00000001"
    shutil.copy(run / old, run / "episodes" / f"{segment}-0-w00000002.parquet")
    torn = line(b"{}", checksum=0) * 2
    changes = {
        "writers": ["w00000001", "w00000002"],
        "writer": "w00000002",
        "taken_over": {segment: len(torn)},
        "replaced": {"episodes/000001-old.parquet": 1},
    }
    manifest_path(run).write_bytes(manifest_text(before.model_copy(update=changes)))
    (run / "journal" / f"{segment}.jsonl").write_bytes(torn)
    (run / "journal" / "000008-w00000002.jsonl").write_bytes(line(b"{}", checksum=0)[:5])
    assert "files" not in complaints(verify(run))


def test_messages_are_prepared_as_by_vllm():
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": None, "reasoning_content": "hm"},
        {"role": "tool", "content": "paid", "tool_call_id": "c1"},
    ]
    assert prepare_messages(messages, "string") == [
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "", "reasoning": "hm", "reasoning_content": "hm"},
        {"role": "tool", "content": "paid", "tool_call_id": "c1"},
    ]
    assert [message["content"] for message in prepare_messages(messages, "openai")] == [
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        [],
        "paid",
    ]
