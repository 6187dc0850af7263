"""The chat template as vLLM applies it, and what a turn adds to the one before."""

from pathlib import Path

import pytest

from tests.helpers.tiny_tokenizer import END, make_tokenizer
from workers.errors import TemplateError
from workers.policy.chat_template import ChatTemplate
from workers.policy.template_probe import TemplateProbe

TOOL = {"name": "pay", "description": "Pay.", "parameters": {"type": "object", "properties": {}}}


def answer(content: str) -> dict[str, str]:
    return {"role": "tool", "tool_call_id": "c1", "content": content}


def test_an_extended_prompt_begins_with_what_was_seen_and_sampled_as_it_was_sampled(tmp_path: Path):
    template = ChatTemplate(str(make_tokenizer(tmp_path)))
    prompt = template.ids([{"role": "user", "content": "Pay Bob."}], [TOOL])
    sampled = template.encode('<tool_call>{"name":"pay",   "arguments":{}}</tool_call>' + END)
    extended = template.extend_prompt(prompt, sampled, [answer("paid")], [TOOL])
    assert extended[: len(prompt) + len(sampled)] == prompt + sampled
    rest = template.decode(extended[len(prompt) + len(sampled) :])
    assert rest.startswith("\n<|im_start|>user\n<tool_response>\npaid")
    assert rest.endswith("<|im_start|>assistant\n")


def test_a_turn_that_was_cut_off_is_ended_before_the_next(tmp_path: Path):
    template = ChatTemplate(str(make_tokenizer(tmp_path)))
    sampled = template.encode("I was about to s")
    extended = template.extend_prompt([1, 2], sampled, [{"role": "user", "content": "Go on"}])
    assert template.decode(extended[2 + len(sampled) :]).startswith(f"{END}\n<|im_start|>user\nGo on{END}")


def test_the_packaged_models_template_is_exact(tmp_path: Path):
    TemplateProbe(ChatTemplate(str(make_tokenizer(tmp_path)))).check()


def test_a_template_that_rewrites_earlier_turns_is_told(tmp_path: Path):
    forgetful = (
        "{{ tools }}{% for m in messages %}{{ '<|im_start|>' + m.role }}"
        "{% if loop.last or m.role != 'assistant' %}{{ m.content }}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
    )
    template = ChatTemplate(str(make_tokenizer(tmp_path, forgetful)))
    with pytest.raises(TemplateError, match="writes a turn differently when others follow it"):
        TemplateProbe(template).check()


def test_a_template_without_tools_is_told(tmp_path: Path):
    bare = "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
    with pytest.raises(TemplateError, match="does not show the model its tools"):
        TemplateProbe(ChatTemplate(str(make_tokenizer(tmp_path, bare)))).check()


def test_a_model_without_a_tokenizer_is_told(tmp_path: Path):
    with pytest.raises(TemplateError, match=r"tokenizer of .* cannot be had"):
        ChatTemplate(str(tmp_path))
