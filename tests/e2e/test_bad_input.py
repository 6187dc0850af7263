"""What is wrong is said before anything expensive starts, and nothing is left behind."""

import json
import zlib

import pytest

from tests.e2e.kumite import write_config

pytestmark = pytest.mark.slow

GOOD = {"environment": {"id": "agentdojo", "args": {"suites": ["banking"]}}, "policy": {"kind": "oracle"}}
SHELL = ["environment={id: shell}", "policy={kind: endpoint, base_url: 'http://127.0.0.1:9/v1', model: m}"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["environment.args.user_tasks=[user_task_99]"], "environment.args.user_tasks"),
        (["environment.args.version=v9"], "environment.args.version"),
        (["environment.args.mode=attack", "environment.args.attack=nope"], "environment.args.attack"),
        (["environment.args.wrong=1"], "environment.args.wrong"),
        (["environment.id=no_such_module"], "environment.id"),
        (["environment.id=missing.py"], "environment.id: there is no file"),
        (["sandbox.image=no-such-image:x"], "sandbox.image"),
        (["sandbox.runtime=no-such-runtime"], "sandbox.runtime"),
        (["policy={kind: vllm, model: /no/such/folder}"], "policy.model"),
        (["policy={kind: endpoint, base_url: 'http://127.0.0.1:9/v1', model: m}"], "policy.base_url"),
        (["samples=0"], "samples"),
        (
            [*SHELL, "environment.args.agent={id: codez}"],
            "agent.id: there is no agent 'codez'; did you mean codex?",
        ),
        (
            [*SHELL, "environment.args.agent={command: [x], image: 'no-such-agent:1'}"],
            "sandbox.image: the Docker engine has no image 'no-such-agent:1'",
        ),
        (["sandbox.allow=['https://pypi.org/simple']"], "is a URL; give a host and its port, 'pypi.org:443'"),
        (["sandbox.allow=['10.0.0.1:443']"], "is an address; give a host's name"),
    ],
)
@pytest.mark.docker
def test_bad_input_is_one_error_that_names_the_field(kumite_here, tmp_path, overrides, said):
    out = tmp_path / "run"
    config = write_config(tmp_path / "config.yaml", **GOOD)
    sets = [argument for override in overrides for argument in ("--set", override)]
    refused = kumite_here("run", config, "--out", out, *sets)
    is_one_error(refused.code, refused.output, said)
    assert not out.exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("environment.args.suites=[bankin]", "environment.args.suites"),
        ("ray.address=127.0.0.1:9", "ray.address"),
    ],
)
@pytest.mark.docker
def test_the_command_says_it_and_ends_with_1(kumite, tmp_path, override, said):
    out = tmp_path / "run"
    config = write_config(tmp_path / "config.yaml", **GOOD)
    run = kumite("run", config, "--out", out, "--set", override)
    is_one_error(run.wait(), run.output, said)
    assert not out.exists()


def is_one_error(code, output, said):
    assert code == 1, output
    assert "error: " in output
    assert said in output
    assert "Traceback" not in output


def test_an_engine_that_does_not_answer_is_named(kumite, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    run = kumite("run", write_config(tmp_path / "config.yaml", **GOOD), "--out", tmp_path / "run")
    assert run.wait() == 1
    assert "no Docker engine answers" in run.output
    assert "make engine" in run.output


def test_a_folder_with_a_run_in_it_is_refused(kumite_here, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    refused = kumite_here("run", write_config(tmp_path / "config.yaml", **GOOD), "--out", tmp_path)
    assert refused.code == 1
    assert "there is a run in it already" in refused.output


def test_a_folder_without_a_run_cannot_be_resumed_or_shown(kumite_here, tmp_path):
    for arguments in (("run", "--resume", tmp_path), ("show", tmp_path)):
        refused = kumite_here(*arguments)
        assert refused.code == 1
        assert "holds no run" in refused.output


def test_a_resumed_run_must_ask_for_the_same_data(kumite_here, tmp_path):
    out = tmp_path / "run"
    config = write_config(tmp_path / "config.yaml", **GOOD)
    out.mkdir()
    (out / "config.yaml").write_text(config.read_text())
    (out / "manifest.json").write_text('{"run_id": "run"}')
    refused = kumite_here("run", config, "--resume", out, "--set", "samples=3", "--set", "workers.max=9")
    assert refused.code == 1
    assert "samples: was 1, is 3" in refused.output
    assert "workers.max" not in refused.output


def test_a_damaged_shard_is_named_and_nothing_is_overwritten(kumite_here, tmp_path):
    out = tmp_path / "run"
    config = write_config(tmp_path / "config.yaml", **GOOD)
    (out / "episodes").mkdir(parents=True)
    (out / "config.yaml").write_text(config.read_text())
    shard = {"segment": "000001", "episodes_file": "episodes/000001.parquet", "episodes": 1, "steps": 1}
    shard["steps_file"] = "steps/000001.parquet"
    (out / "manifest.json").write_text(json.dumps({"run_id": "run", "shards": [shard]}))
    (out / "episodes" / "000001.parquet").write_bytes(b"PAR1 torn")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    refused = kumite_here("show", out)
    assert refused.code == 1
    assert f"{out / 'episodes' / '000001.parquet'} cannot be read" in refused.output
    assert "Traceback" not in refused.output
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_damaged_journal_is_named_by_file_and_line(kumite_here, tmp_path):
    out = tmp_path / "run"
    (out / "journal").mkdir(parents=True)
    (out / "manifest.json").write_text('{"run_id": "run"}')
    later_batch = b"%08x {}\n" % zlib.crc32(b"{}")  # without it, a loss of power may have torn the first
    (out / "journal" / "000001.jsonl").write_bytes(b"00000000 {}\n" + later_batch)
    refused = kumite_here("show", out)
    assert refused.code == 1
    assert "000001.jsonl, line 1: found a record whose CRC-32 is not 00000000" in refused.output
