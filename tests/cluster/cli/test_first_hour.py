"""What a new user meets: hints, refusals that say what works, examples that play, own shell tasks."""

import logging
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.cli.main import app
from cluster.config import RunConfig
from cluster.config.file import load_config
from cluster.dataset.run_folder import Target
from cluster.dataset.run_record import begin_session
from cluster.errors import ConfigError, RunError
from cluster.observe.tally import LiveTally
from cluster.plan.resume import check_image
from cluster.policy.models.description import describe_run
from cluster.pool import images
from cluster.run import _describe_in_flight
from tests.cluster.synthetic import episode, result
from workers.environments.arguments import check_arguments
from workers.environments.shell.shell_env import ShellArgs
from workers.errors import EnvironmentLoadError
from workers.sandbox.base import ToolsetSpec
from workers.settings import SandboxSettings

CONFIG = {"environment": {"id": "e"}, "policy": {"kind": "oracle"}}


def invoke(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("policy.temperature", "policy.sampling.temperature"),
        ("policy.max_tokens", "policy.sampling.max_tokens"),
        ("timeout", "episode.timeout"),
        ("memory_mb", "memory_mb"),
        ("policy.modle", "model"),
    ],
)
def test_a_key_in_the_wrong_section_is_told_its_place(tmp_path: Path, key: str, hint: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "policy": {"kind": "vllm"}}))
    with pytest.raises(ConfigError, match=rf"{key}: there is no such key; did you mean \S*{hint}\?"):
        load_config(path, [f"{key}=1"])


def test_arguments_of_an_environment_are_corrected_in_the_same_words() -> None:
    with pytest.raises(
        EnvironmentLoadError,
        match=r"environment\.args\.max_turn: there is no such key; did you mean max_turns\?",
    ):
        check_arguments(ShellArgs, {"max_turn": 3})


@pytest.mark.parametrize("job", [{"RAY_JOB_ID": "raysubmit_1"}, {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}])
def test_in_a_job_a_relative_output_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig.model_validate(CONFIG)
    Target.new(config, None)
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"output: got 'runs', and this is a Ray job.*s3://bucket/runs"):
        Target.new(config, None)
    with pytest.raises(ConfigError, match="--out: got 'here'"):
        Target.new(config, "here")
    Target.new(config, str(tmp_path / "outside"))
    inside = tmp_path / "runtime_resources" / "working_dir_files" / "runs"
    with pytest.raises(ConfigError, match="a copy that Ray deletes"):
        Target.new(config, str(inside))


def test_what_an_error_about_an_own_image_advises_can_work() -> None:
    own = ToolsetSpec("notes", "notes:Notes", {})
    with pytest.raises(RunError, match=r"docker build -t notes:1 .*sandbox\.image: notes:1"):
        images.resolve_image_tag(own, SandboxSettings())
    said = images._suggest_remedy(own, "notes:1")
    assert "docker build -t notes:1" in said and "kumite images build" not in said


def test_an_image_that_was_built_anew_under_the_same_tag_is_not_taken_for_the_runs(tmp_path: Path) -> None:
    check_image(tmp_path, "notes:1", "sha256:aa")
    begin_session(tmp_path, describe_run(RunConfig.model_validate(CONFIG), "m", {}), None, "sha256:aa")
    check_image(tmp_path, "notes:1", "sha256:aa")
    check_image(tmp_path, "notes:1", None)
    with pytest.raises(ConfigError, match="docker tag sha256:aa notes:1"):
        check_image(tmp_path, "notes:1", "sha256:bb")


def test_check_fails_for_a_config_that_cannot_start(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                **CONFIG,
                "environment": {"id": "no_such.py"},
                "sandbox": {"backend": "process"},
                "output": str(tmp_path),
            }
        )
    )
    said = invoke("check", path)
    assert said.exit_code == 1 and "FAIL  environment" in said.stdout and "no_such.py" in said.stdout


def test_time_left_and_what_a_signal_drops_are_told() -> None:
    tally = LiveTally(total=10)
    assert tally.seconds_left() is None
    tally.began -= 20
    tally.add(result(episode(0)))
    tally.add(result(episode(1)))
    assert tally.seconds_left() == pytest.approx(80, rel=0.2)
    said = _describe_in_flight(7, 10.0)
    assert "the 7 in flight have 10 s" in said and "--drain SECONDS" in said and "--resume" in said


def test_help_and_version() -> None:
    assert invoke("--version").stdout.startswith("kumite ")
    assert "YAML" in invoke("run", "--help").stdout


@pytest.mark.parametrize(("kind", "name"), [("environment", "sums"), ("toolset", "my_notes")])
def test_examples_that_are_written_play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert invoke("init", kind, name).exit_code == 0
    said = invoke("debug", f"{name}.yaml")
    assert said.exit_code == 0 and "finished: reward 1.0" in said.stdout
    assert isinstance(invoke("init", kind, name).exception, ConfigError)


WITHOUT_DOCKER = ("--set", "sandbox.backend=process", "--set", "sandbox.unsafe=true")


@pytest.mark.slow
def test_own_shell_tasks_are_validated_and_mistakes_in_hidden_tests_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.ERROR)
    assert invoke("init", "task", "twice").exit_code == 0
    said = invoke("tasks", "twice.yaml", "--validate", *WITHOUT_DOCKER)
    assert said.exit_code == 0 and "1 of 1 tasks" in said.stdout
    tests = tmp_path / "twice" / "tests.py"
    tests.write_text(tests.read_text().replace("number) ==", "numbr) =="))
    from workers.environments.shell.dataset import make_shell_task

    make_shell_task.cache_clear()
    said = invoke("tasks", "twice.yaml", "--validate", *WITHOUT_DOCKER)
    assert said.exit_code == 1
    assert "test_numbers uses numbr, which is nowhere defined" in " ".join(said.stdout.split())
