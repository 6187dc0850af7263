"""Runs as files of other tools, each read with the library that it is for."""

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import TypeAdapter
from typer.testing import CliRunner
from verifiers.legacy.utils.save_utils import load_outputs

from cluster.cli.main import app
from cluster.dataset.arrow import pq
from cluster.dataset.episodes import iterate_records
from cluster.errors import ConfigError
from cluster.export.conversations import conversations_of
from tests.cluster.export.exported_runs import OPENING, TOOLS, sample, write_exported_run
from tests.cluster.viewer.made_up_runs import write_run
from tests.helpers.other_pythons import read_with
from workers.records import Message


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exported_run(tmp_path_factory.mktemp("exported") / "run")


def export(run: Path, out: Path, *options: str) -> str:
    found = CliRunner().invoke(app, ["export", str(run), "--out", str(out), *options])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.output


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_openais_own_types_take_the_lines(run: Path, tmp_path: Path) -> None:
    said = export(run, tmp_path / "sft.jsonl", "--format", "openai")
    assert "4 conversations" in said
    rows = lines(tmp_path / "sft.jsonl")
    for row in rows:
        TypeAdapter(list[ChatCompletionMessageParam]).validate_python(row["messages"], strict=True)
        TypeAdapter(list[ChatCompletionToolParam]).validate_python(row["tools"], strict=True)
        assert row["messages"][-1]["role"] == "assistant" and "reasoning_content" not in row["messages"][2]
    export(run, tmp_path / "pairs.jsonl", "--format", "openai", "--pairs")
    (pair,) = lines(tmp_path / "pairs.jsonl")
    assert [message["role"] for message in pair["input"]["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]
    assert pair["preferred_output"][0]["tool_calls"][0]["function"]["name"] == "pay"
    assert pair["non_preferred_output"] == [{"role": "assistant", "content": "I cannot."}]


def test_a_choice_of_episodes(run: Path, tmp_path: Path) -> None:
    def last(*options: str) -> list[str]:
        export(run, tmp_path / "out.jsonl", "--format", "openai", *options)
        return [row["messages"][-1]["content"] for row in lines(tmp_path / "out.jsonl")]

    assert last("--where", "reward = 0.5") == ["Done."]
    assert last("--best-of", "1") == ["I cannot.", "Done."]
    assert last("--best-of", "8") == ["paid", "Done."]
    assert last("--best-of", "8", "--where", "reward < 1") == ["Done."]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--format", "excel"], "--format: got 'excel'; it must be one of openai, sharegpt"),
        (["--format", "verl", "--pairs"], "--pairs: the format verl has none"),
        (["--format", "openai", "--tokens"], "--tokens goes with --format trl"),
        (["--format", "openai", "--best-of", "0"], "--best-of: got 0; give 1 or more"),
        (["--format", "openai", "--where", "reward > 7"], "there is nothing to export"),
        (["--format", "openai", "--pairs", "--where", "task_id = t1"], "two samples of a task that part"),
        (["--format", "openai", "--where", "rewrd > 7"], "did you mean reward?"),
    ],
)
def test_what_cannot_be_exported_is_named(run: Path, tmp_path: Path, options: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        export(run, tmp_path / "out", *options)
    assert says in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_turns_of_sharegpt_alternate(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "s.jsonl", "--format", "sharegpt", "--where", "reward = 1 and task_id = t0")
    (row,) = lines(tmp_path / "s.jsonl")
    turns = [turn["from"] for turn in row["conversations"]]
    assert turns == ["human", "function_call", "observation", "function_call", "observation", "gpt"]
    assert row["system"] == OPENING[0].content and json.loads(row["tools"]) == TOOLS
    thought, _, call = row["conversations"][1]["value"].rpartition("\n\n")
    assert thought == "<think>\nI look.\n\nI look.\n</think>"
    assert json.loads(call) == {"name": "read_file", "arguments": {"file_path": "bill.txt"}}
    export(run, tmp_path / "p.jsonl", "--format", "sharegpt", "--pairs")
    (pair,) = lines(tmp_path / "p.jsonl")
    assert (pair["chosen"]["from"], pair["rejected"]["from"]) == ("function_call", "gpt")
    trl = pytest.importorskip("trl", reason="TRL is not installed (the group torch-tests)")
    assert trl.maybe_convert_to_chatml(row)["messages"][0] == {"role": "human", "content": OPENING[1].content}


@pytest.mark.slow
def test_a_parquet_file_for_trl_is_loaded_with_arguments_and_tools_as_data(run: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    def load(name: str, *options: str) -> Any:
        export(run, tmp_path / name, "--format", "trl", *options)
        return load_dataset(
            "parquet", data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "cache")
        )

    rows = load("sft.parquet")
    assert len(rows) == 4
    (pay,) = [row for row in rows if row["messages"][-1]["content"] == "paid"]
    assert pay["tools"] == [{"type": "function", "function": tool} for tool in TOOLS]
    call = pay["messages"][4]["tool_calls"][0]
    assert call["function"]["arguments"] == {"amount": 98.7, "to": "Ärzte GmbH"}
    assert pay["messages"][2]["reasoning_content"] == "I look."
    (pair,) = load("pairs.parquet", "--pairs")
    assert [message["role"] for message in pair["prompt"]] == ["system", "user", "assistant", "tool"]
    assert [message["role"] for message in pair["chosen"]] == ["assistant", "tool", "assistant"]
    assert pair["rejected"][0]["content"] == "I cannot."
    tokens = load("tokens.parquet", "--tokens")
    assert [sum(row["assistant_masks"]) for row in tokens] == [4, 6, 4, 4]


@pytest.mark.slow
def test_trls_trainers_learn_from_the_files(run: Path, tmp_path: Path) -> None:
    trl: Any = pytest.importorskip("trl", reason="TRL is not installed (the group torch-tests)")
    from datasets import load_dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tests.helpers.tiny_tokenizer import make_tokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(make_tokenizer(tmp_path / "tokenizer")))
    tokenizer.pad_token = tokenizer.eos_token
    shape: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    kinds: list[tuple[str, list[str], Any, Any]] = [
        ("sft", [], trl.SFTConfig, trl.SFTTrainer),
        ("tokens", ["--tokens"], trl.SFTConfig, trl.SFTTrainer),
        ("pairs", ["--pairs"], trl.DPOConfig, trl.DPOTrainer),
    ]
    for name, options, config, trainer in kinds:
        export(run, tmp_path / f"{name}.parquet", "--format", "trl", *options)
        rows = load_dataset(
            "parquet",
            data_files=str(tmp_path / f"{name}.parquet"),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape))
        settings = config(
            output_dir=str(tmp_path / name),
            max_steps=1,
            per_device_train_batch_size=1,
            max_length=4096,
            report_to=[],
            use_cpu=True,
            bf16=False,
        )
        more: dict[str, Any] = (
            {"ref_model": LlamaForCausalLM(model.config)} if trainer is trl.DPOTrainer else {}
        )
        made = trainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer, **more)
        assert made.train().training_loss > 0


_VERL = """
import json, sys
from transformers import PreTrainedTokenizerFast
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[2])
tokenizer.pad_token = tokenizer.eos_token
config = {"max_length": 4096, "pad_mode": "no_padding", "ignore_input_ids_mismatch": True}
rows = MultiTurnSFTDataset([sys.argv[1]], tokenizer, config)
masks = [int(rows[index]["loss_mask"].sum()) for index in range(len(rows))]
names = [row[2]["tool_calls"][0]["function"]["name"] for row in rows.messages]
print("\\n" + json.dumps([len(rows), masks, names]))
"""


def test_verls_dataset_reads_the_file(run: Path, tmp_path: Path) -> None:
    said = export(run, tmp_path / "v.parquet", "--format", "verl")
    assert "verl takes tools as nested columns" in said
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["messages", "tools_json"]
    assert json.loads(table["tools_json"][0].as_py())[1]["function"] == TOOLS[1]
    from tests.helpers.tiny_tokenizer import make_tokenizer

    folder = str(make_tokenizer(tmp_path / "tokenizer"))
    count, masks, names = json.loads(
        read_with("verl", _VERL, str(tmp_path / "v.parquet"), folder).splitlines()[-1]
    )
    assert count == 4 and min(masks) > 10 and names == ["read_file"] * 4


def test_one_tool_is_where_verl_finds_it(tmp_path: Path) -> None:
    records = [sample(0, 1.0, "Done.", tool_schemas=json.dumps(TOOLS[:1]))]
    said = export(write_run(tmp_path / "run", records), tmp_path / "v.parquet", "--format", "verl")
    assert "warning" not in said
    (tools,) = pq.read_table(tmp_path / "v.parquet")["tools"].to_pylist()
    assert tools == [{"type": "function", "function": TOOLS[0]}]


_INSPECT = """
import json, sys
from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries
log = read_eval_log(sys.argv[1])
first = {sample.uuid: sample for sample in log.samples}
paid = first["0000000000000001"]
print(json.dumps({
    "status": log.status,
    "epochs": log.eval.config.epochs,
    "scores": {score.name: score.metrics["mean"].value for score in log.results.scores},
    "samples": sorted([sample.id, sample.epoch] for sample in log.samples),
    "errors": [sample.error.message for sample in log.samples if sample.error],
    "events": [event.event for event in paid.events],
    "calls": [call.arguments for said in paid.messages for call in getattr(said, "tool_calls", None) or []],
    "tool_errors": [message.error is not None for message in paid.messages if message.role == "tool"],
    "summaries": len(read_eval_log_sample_summaries(sys.argv[1])),
    "total": log.results.total_samples,
}))
"""


def test_inspect_reads_the_log(run: Path, tmp_path: Path) -> None:
    assert "5 samples" in export(run, tmp_path / "run.eval", "--format", "inspect")
    found = json.loads(read_with("inspect_ai", _INSPECT, str(tmp_path / "run.eval")).splitlines()[-1])
    assert found == {
        "status": "success",
        "epochs": 4,
        "scores": {"reward": 0.625, "utility": 0.5},
        "samples": [["t0", 1], ["t0", 2], ["t0", 3], ["t0", 4], ["t1", 1]],
        "errors": ["setup: SessionSetupError: no such task"],
        "events": ["model", "tool", "model", "tool", "model"],
        "calls": [{"file_path": "bill.txt"}, {"amount": 98.7, "to": "Ärzte GmbH"}],
        "tool_errors": [False, True],
        "summaries": 5,
        "total": 5,
    }


def test_verifiers_reads_its_results(run: Path, tmp_path: Path) -> None:
    assert "4 results" in export(run, tmp_path / "results", "--format", "verifiers")
    outputs = load_outputs(tmp_path / "results")
    assert [(each["example_id"], each["reward"]) for each in outputs] == [
        (0, 0.0),
        (0, 1.0),
        (0, 0.5),
        (1, 1.0),
    ]
    assert outputs[1]["completion"][-1] == {"role": "assistant", "content": "paid"}
    assert outputs[1]["prompt"] == [{"role": each.role, "content": each.content} for each in OPENING]
    metadata = json.loads((tmp_path / "results" / "metadata.json").read_text())
    assert metadata["avg_reward"] == 0.625 and metadata["env_args"] == {"level": 2}
    assert metadata["pass_at_k"]["3"] == 1.0


def test_a_rewritten_conversation_is_a_conversation_of_its_own(run: Path) -> None:
    record = next(iter(iterate_records(run)))
    short = [Message(role="user", content="A summary")]
    changed = record.steps[1].model_copy(update={"prompt_messages": short})
    found = conversations_of(record.model_copy(update={"steps": [record.steps[0], changed]}))
    assert [len(each.messages) for each in found] == [3, 2]
    assert [each.given for each in found] == [2, 1]


def test_without_out_the_file_is_named_by_the_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["export", str(run), "--format", "openai", "--best-of", "4"])
    assert found.exit_code == 0 and (tmp_path / "run-1-openai.jsonl").is_file()
