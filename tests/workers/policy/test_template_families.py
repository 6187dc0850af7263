"""Chat templates of popular families: shown to be exact, turn by turn, or refused with the true reason."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.family_tokenizers import make_family_tokenizer
from workers.errors import TemplateError
from workers.policy.chat_template import ChatTemplate, without_tool_names
from workers.policy.template_renderer import make_renderer
from workers.settings import PolicyEndpoint

_TRL = importlib.util.find_spec("trl")
FOLDER = Path(_TRL.submodule_search_locations[0]) / "chat_templates" if _TRL else None  # type: ignore[index]
TEMPLATES = sorted(FOLDER.glob("*.jinja")) if FOLDER else []
ACCEPTED = {
    "qwen2_5",
    "qwen2_5_training",
    "qwen3_instruct_2507",
    "qwen3_instruct_2507_training",
    "qwen3_training",
    "qwen3_vl",
    "qwen3_vl_training",
}
"""With hermes-style tool calls."""
REASONS = (
    "does not show the model its tools",
    "takes no tools: ",
    "takes no tool call: ",
    "leaves the tool calls out of an answer",
    "writes a turn differently when others follow it, in a conversation ",
    "does not write an answer where the model gives it: ",
    "ends an answer by no special token of the tokenizer",
    "drops earlier reasoning once ",
    r"the parser hermes \(policy\.tool_parser\) cannot read ",
)
TOOL = {
    "name": "get_weather",
    "description": "Weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
OFFERED = [{"type": "function", "function": TOOL}]
# As Mistral's own has it, in short: roles alternate, ids have nine letters or digits, one end token a turn.
MISTRAL = """{%- if messages[0].role == 'system' %}
{{- raise_exception('System messages are not supported.') }}{% endif %}
{{- bos_token }}{%- if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for m in messages %}{%- if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}
{%- elif m.role == 'assistant' and m.tool_calls %}{%- if m.tool_calls | length > 1 %}
{{- raise_exception('This model only supports single tool-calls at once!') }}{% endif %}
{%- for c in m.tool_calls %}{%- if c.id is not defined or c.id | length != 9 %}
{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}
{{- '<tool_call>' + c.function | tojson + '</tool_call>' }}{% endfor %}{{- eos_token }}
{%- elif m.role == 'assistant' %}{{ m.content + eos_token }}
{%- elif m.role == 'tool' %}{%- if m.tool_call_id | length != 9 %}
{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}
{{- '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}
{%- else %}{{ raise_exception('After the optional system message, roles must alternate!') }}{% endif %}
{%- endfor %}"""


def renderer_of(folder: Path, template: str, parser: str | None = "hermes") -> Any:
    model = str(make_family_tokenizer(folder, template))
    return make_renderer(PolicyEndpoint(kind="openai", model=model, tokens="exact", tool_parser=parser))


def call(identity: str, city: str) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": f'{{"city": "{city}"}}'}
    return {"id": identity, "type": "function", "function": function}


def check_turn_by_turn(renderer: Any, folder: Path, says: str = "") -> None:
    """Plays a conversation by the renderer, and compares with what the template makes of it whole."""
    template = ChatTemplate(str(folder))
    template.find_end()
    said: list[dict[str, Any]] = [{"role": "user", "content": "Weather?"}]
    ids = renderer.render(said, tools=OFFERED, add_generation_prompt=True).token_ids
    answer = {"role": "tool", "tool_call_id": "abcdefgh1", "name": "get_weather", "content": "fine"}
    turns: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
        ({"role": "assistant", "content": says, "tool_calls": [call("abcdefgh1", "Bern")]}, [answer]),
        ({"role": "assistant", "content": "Fine."}, [{"role": "user", "content": "And in Rome?"}]),
        ({"role": "assistant", "content": "Ask again."}, [{"role": "user", "content": "So?"}]),
    ]
    for action, following in turns:
        assert ids == template.ids(without_tool_names(said), [TOOL])
        prompt = template.text(without_tool_names(said), [TOOL])
        whole = template.text(without_tool_names([*said, action]), [TOOL], prompt=False)
        assert whole.startswith(prompt)
        sampled = template.encode(whole[len(prompt) :].rpartition(template.end)[0] + template.end)
        assert sampled[-1] in renderer.get_stop_token_ids()
        read = renderer.parse_response(sampled, tools=OFFERED)
        called = [(each.name, each.arguments) for each in read.tool_calls or []]
        assert called == [("get_weather", '{"city": "Bern"}')] * len(action.get("tool_calls", []))
        # Without a parser of reasoning, the empty reasoning that some templates write is content.
        assert (read.content or "").replace("<think>\n\n</think>", "").strip() == action["content"]
        ids = renderer.bridge_to_next_turn(ids, sampled, following, tools=OFFERED).token_ids
        said = [*said, action, *following]
    assert ids == template.ids(without_tool_names(said), [TOOL])


@pytest.mark.slow
@pytest.mark.skipif(not TEMPLATES, reason="the package trl is not installed (`make setup` installs it)")
def test_each_familys_template_is_exact_turn_by_turn_or_refused_with_the_true_reason(tmp_path: Path):
    accepted: set[str] = set()
    for path in TEMPLATES:
        folder = tmp_path / path.stem
        try:
            renderer = renderer_of(folder, path.read_text())
        except TemplateError as error:
            said = str(error)
            assert re.search("|".join(REASONS), said), (path.stem, said)
            assert "Traceback" not in said
            assert "set policy.renderer to" in said and "policy.tokens to `per_turn`" in said
            assert ("set policy.tool_parser to" in said) == ("(policy.tool_parser) cannot read" in said)
        else:
            check_turn_by_turn(renderer, folder)
            accepted.add(path.stem)
    assert accepted == ACCEPTED


@pytest.mark.vllm
@pytest.mark.skipif(not TEMPLATES, reason="the package trl is not installed (`make setup` installs it)")
@pytest.mark.parametrize(
    "name, parser", [("llama3_1", "llama3_json"), ("qwen3_5_nothink_training", "qwen3_coder")]
)
def test_vllms_parser_of_a_family_reads_its_tool_calls(name: str, parser: str, tmp_path: Path):
    assert FOLDER is not None
    text = (FOLDER / f"{name}.jinja").read_text()
    check_turn_by_turn(renderer_of(tmp_path, text, parser), tmp_path)


def test_a_template_that_wants_alternating_roles_single_calls_and_ids_of_nine_is_exact(tmp_path: Path):
    check_turn_by_turn(renderer_of(tmp_path, MISTRAL), tmp_path)


def test_calls_have_ids_that_every_template_takes(tmp_path: Path):
    renderer = renderer_of(tmp_path, MISTRAL)
    text = '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'
    ids = renderer._tokenizer.encode(text, add_special_tokens=False)
    [made] = renderer.parse_response(ids, tools=OFFERED).tool_calls
    assert re.fullmatch(r"[A-Za-z0-9]{9}", made.id)


def chatml(end: str = "<|im_end|>", said: str = "m.content") -> str:
    return (
        "{{ tools }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% set said = "
        + said
        + " %}{{ said }}{% for c in m.tool_calls or [] %}"
        "<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{{ '"
        + end
        + "\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


def test_a_template_with_another_end_token_than_the_tokenizer_is_exact(tmp_path: Path):
    renderer = renderer_of(tmp_path, chatml("<close_turn>"))
    check_turn_by_turn(renderer, tmp_path)
    assert renderer._tokenizer.convert_tokens_to_ids("<close_turn>") == renderer.get_stop_token_ids()[0]


def test_the_named_parser_is_heeded(tmp_path: Path):
    renderer = renderer_of(tmp_path, chatml(), None)
    text = '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'
    ids = renderer._tokenizer.encode(text, add_special_tokens=False)
    read = renderer.parse_response(ids, tools=OFFERED)
    assert (read.content, read.tool_calls) == (text, [])


def test_a_template_that_drops_earlier_reasoning_is_told(tmp_path: Path):
    said = "m.content.split('</think>')[-1] if m.role == 'assistant' and not loop.last else m.content"
    with pytest.raises(TemplateError, match="drops earlier reasoning once a user message follows"):
        renderer_of(tmp_path, chatml(said=said))
