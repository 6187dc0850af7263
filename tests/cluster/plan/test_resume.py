"""When a run may be taken up again: the data it asks for must be the same, wherever its files are."""

import json
import os
from pathlib import Path

import pytest
import yaml

from cluster.config.file import load_config
from cluster.config.run_config import VllmPolicy
from cluster.dataset.manifest import ManifestError
from cluster.dataset.run_folder import Target
from cluster.dataset.run_record import begin_session
from cluster.errors import ConfigError
from cluster.plan.resume import resumable_config
from cluster.policy.models.description import describe_run

FIELDS = {"policy": {"kind": "oracle"}, "samples": 2}


def begun(folder: Path, **fields: object) -> Path:
    """A folder of a run whose config file and environment are in `folder`."""
    environment = folder / "my_env.py"
    environment.parent.mkdir(parents=True, exist_ok=True)
    environment.write_text("def load_environment(): ...\n")
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"environment": {"id": "my_env.py"}, **FIELDS, **fields}))
    run = folder / "run"
    Target(run, "run").make(load_config(config))
    (run / "manifest.json").write_text(json.dumps({"run_id": "run"}))
    return run


def test_a_trainers_loop_and_a_run_do_not_go_on_with_each_other(tmp_path):
    run = begun(tmp_path)
    config = load_config(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"none of a trainer's loop; `kumite run --resume .*run` goes on"):
        resumable_config(run, config, loop=True)
    (run / "manifest.json").write_text(json.dumps({"run_id": "run", "loop": {"iteration": 1}}))
    assert resumable_config(run, config, loop=True) is config
    with pytest.raises(ConfigError, match=r"RolloutEngine\(config, '.*run', resume=True\)"):
        resumable_config(run, None)


def test_the_environments_file_is_kept_with_the_run(tmp_path):
    run = begun(tmp_path)
    assert (run / "environment.py").read_text() == (tmp_path / "my_env.py").read_text()


def test_a_run_goes_on_with_its_own_config(tmp_path):
    run = begun(tmp_path)
    assert resumable_config(run, None).samples == 2


def test_a_run_goes_on_after_its_folder_has_moved(tmp_path):
    begun(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    run = tmp_path / "there" / "run"
    config = load_config(tmp_path / "there" / "config.yaml")
    assert resumable_config(run, config).environment.id == str(tmp_path / "there" / "my_env.py")
    with pytest.raises(ConfigError, match=r"my_env\.py; give a config whose environment\.id says where"):
        resumable_config(run, None)


def test_an_environment_that_was_edited_is_another(tmp_path):
    run = begun(tmp_path)
    (tmp_path / "my_env.py").write_text("def load_environment(): return 2\n")
    for config in (None, load_config(tmp_path / "config.yaml")):
        with pytest.raises(ConfigError, match=r"my_env\.py is not what the run began with"):
            resumable_config(run, config)
    (run / "environment.py").write_bytes((tmp_path / "my_env.py").read_bytes())
    assert resumable_config(run, None).samples == 2


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        ("tokenizer.json", '{"model": {}}', "tokenizer"),
        ("chat_template.jinja", "{{ messages[0] }}", "chat template"),
        ("model.safetensors", "otherwise", "weights"),
    ],
)
def test_a_model_whose_files_changed_under_their_name_is_another(tmp_path, file, change, what):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "chat_template.jinja", "model.safetensors", "config.json"):
        (model / name).write_text("{}")
    run = begun(tmp_path, policy={"kind": "vllm", "model": str(model)})
    config = load_config(tmp_path / "config.yaml")
    begin_session(run, describe_run(config, "model", {}), 0)
    for name in ("model.safetensors", "config.json"):  # as a copy has another date
        os.utime(model / name, (1, 1))
    assert resumable_config(run, None).samples == 2
    (model / file).write_text(change)
    with pytest.raises(ConfigError, match=f"the {what} of '.*model' changed since the run began"):
        resumable_config(run, None)
    # The weights that a loop goes on from are the trainer's.
    (run / "manifest.json").write_text(json.dumps({"run_id": "run", "loop": {"iteration": 1}}))
    if what == "weights":
        assert resumable_config(run, config, loop=True) is config
    else:
        with pytest.raises(ConfigError, match=f"the {what} of"):
            resumable_config(run, config, loop=True)


def test_a_file_of_another_name_is_another_environment(tmp_path):
    run = begun(tmp_path)
    (tmp_path / "my_env.py").rename(tmp_path / "your_env.py")
    config = load_config(tmp_path / "config.yaml", ["environment.id=your_env.py"])
    with pytest.raises(ConfigError, match=r"environment\.id: was .*my_env\.py', is .*your_env\.py'"):
        resumable_config(run, config)


@pytest.mark.parametrize(
    "change",
    [
        "samples=3",
        "keep=1",
        "seed=1",
        "environment.split=train",
        "policy={kind: endpoint, base_url: 'http://a/v1', model: m}",
    ],
)
def test_what_would_change_the_data_is_named(tmp_path, change):
    run = begun(tmp_path)
    config = load_config(tmp_path / "config.yaml", [change])
    with pytest.raises(ConfigError, match=change.partition("=")[0] + r".*: was .*, is "):
        resumable_config(run, config)


@pytest.mark.parametrize(
    "change", ["workers.max=9", "observe.every=1", "ray.address=auto", "output=/elsewhere"]
)
def test_how_and_where_it_runs_may_change(tmp_path, change):
    run = begun(tmp_path)
    assert resumable_config(run, load_config(tmp_path / "config.yaml", [change]))


def test_a_run_of_another_version_is_left_alone(tmp_path):
    run = begun(tmp_path)
    (run / "manifest.json").write_text(json.dumps({"run_id": "run", "format": 99}))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ManifestError, match="format is 99, and this version of Kumite reads format 1"):
        resumable_config(run, None)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def with_template(folder: Path, text: str = "{{ tools }}") -> Path:
    """A folder of a run whose policy has a chat template in `folder`."""
    template = folder / "chat.jinja"
    folder.mkdir(parents=True, exist_ok=True)
    template.write_text(text)
    return begun(folder, policy={"kind": "vllm", "chat_template": str(template), "versions_folder": "/old"})


def test_a_chat_template_goes_with_its_run(tmp_path):
    with_template(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    there = tmp_path / "there"
    own = there / "run" / "chat_template.jinja"
    moved = [f"environment.id={there / 'my_env.py'}"]
    with pytest.raises(ConfigError, match=rf"policy\.chat_template.*--set policy\.chat_template={own}"):
        resumable_config(there / "run", load_config(there / "run" / "config.yaml", moved))
    for template in (own, there / "chat.jinja"):
        given = [*moved, f"policy.chat_template={template}", "policy.versions_folder=/new"]
        config = resumable_config(there / "run", load_config(there / "run" / "config.yaml", given))
        assert isinstance(config.policy, VllmPolicy)
        assert config.policy.chat_template == template
    (there / "chat.jinja").write_text("another")
    with pytest.raises(ConfigError, match=r"is not what the run began with, which is .*chat_template\.jinja"):
        resumable_config(
            there / "run",
            load_config(
                there / "run" / "config.yaml", [*given[:1], f"policy.chat_template={there / 'chat.jinja'}"]
            ),
        )


def test_a_run_without_a_chat_template_gets_none(tmp_path):
    run = begun(tmp_path, policy={"kind": "vllm"})
    config = load_config(run / "config.yaml", ["policy.chat_template=/some.jinja"])
    with pytest.raises(ConfigError, match=r"policy\.chat_template: was None"):
        resumable_config(run, config)


def test_relative_paths_of_the_policy_are_kept_as_where_they_led(tmp_path, monkeypatch):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "chat.jinja").write_text("{{ tools }}")
    monkeypatch.chdir(tmp_path)
    run = begun(
        tmp_path,
        policy={"kind": "vllm", "chat_template": "templates/chat.jinja", "versions_folder": "versions"},
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    policy = resumable_config(run, None).policy
    assert isinstance(policy, VllmPolicy)
    assert policy.chat_template == tmp_path / "templates" / "chat.jinja"
    assert policy.versions_folder == tmp_path / "versions"
