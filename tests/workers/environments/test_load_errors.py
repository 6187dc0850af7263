"""Whatever `load_environment` raises or returns: one line with the environment, the cause, what is right."""

import logging
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest

from workers.environments.classic.environment import ClassicEnvironment
from workers.environments.loading import load_classic_environment
from workers.errors import EnvironmentLoadError
from workers.settings import EnvironmentSettings

SOURCE = """
import os, sys
import verifiers as vf
from datasets import Dataset, DatasetDict

ROWS = Dataset.from_list([{"question": "a", "answer": "b"}])

def load_environment(kind="fine", folder="retail", policy="Refunds only.", episode_timeout=None):
    if kind == "variable": os.environ["A_VARIABLE_THAT_IS_NOT_SET"]
    if kind == "key": {}["colour"]
    if kind == "keys": vf.ensure_keys(["A_VARIABLE_THAT_IS_NOT_SET"])
    if kind == "openai":
        os.environ.pop("OPENAI_API_KEY", None)
        vf.JudgeRubric()
    if kind == "file": open("/nonexistent/data.jsonl")
    if kind == "import": import a_package_that_is_not_there
    if kind == "exit": sys.exit("no data")
    if kind == "own": raise RuntimeError("two\\nlines")
    if kind == "dict":
        return vf.SingleTurnEnv(eval_dataset=DatasetDict({"test": ROWS}), rubric=vf.Rubric())
    if kind == "none": return None
    if kind == "class": return vf.SingleTurnEnv
    if kind == "async":
        async def later(): ...
        return later()
    if kind == "lazy":
        def rows(): raise OSError("the hub is away")
        return vf.SingleTurnEnv(eval_dataset=rows, rubric=vf.Rubric())
    print("Map: 100%", file=sys.stderr)
    return vf.SingleTurnEnv(
        eval_dataset=ROWS, rubric=vf.Rubric(), system_prompt=f"{policy} {folder} {episode_timeout}"
    )
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "odd.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("variable", r"environment variable A_VARIABLE_THAT_IS_NOT_SET, which is not set; set it"),
        ("key", r"looked for the key 'colour'"),
        ("keys", r"needs keys that are not set: .*A_VARIABLE_THAT_IS_NOT_SET"),
        ("openai", r"openai package, which says: .*OPENAI_API_KEY"),
        ("file", r"opens '/nonexistent/data\.jsonl', and there is no such file"),
        ("import", r"needs a package that cannot be imported \(module a_package_that_is_not_there\)"),
        ("exit", r"called sys\.exit\(no data\)"),
        ("own", r"raised RuntimeError: two lines; the traceback is in the log"),
        ("dict", r"DatasetDict, which is several datasets; give one"),
        ("none", r"returned nothing"),
        ("class", r"gave SingleTurnEnv; a verifiers MultiTurnEnv .*is needed"),
        ("async", r"coroutine function"),
        ("lazy", r"the hub is away"),
    ],
)
def test_what_goes_wrong_is_one_line(folder: Path, kind: str, words: str) -> None:
    with pytest.raises(EnvironmentLoadError, match=words) as raised:
        ClassicEnvironment(EnvironmentSettings(id="odd.py", args={"kind": kind}), folder).rows()
    said = str(raised.value)
    assert "\n" not in said and "odd.py" in said and said.startswith("environment.")


def test_file_whose_own_code_fails_is_named_with_the_cause(folder: Path) -> None:
    with pytest.raises(EnvironmentLoadError, match=r"'broken\.py' cannot be imported.*ZeroDivisionError"):
        load_classic_environment(EnvironmentSettings(id="broken.py"), folder, {})


def test_argument_that_is_not_taken_is_answered_with_those_that_are(folder: Path) -> None:
    with pytest.raises(EnvironmentLoadError, match=r"'colour'; its load_environment takes kind, folder"):
        load_classic_environment(EnvironmentSettings(id="odd.py", args={"colour": 1}), folder, {})


def test_defaults_of_a_users_own_stay_and_what_has_none_is_offered(folder: Path) -> None:
    offered: dict[str, Any] = {"policy": "some-model", "episode_timeout": 7.0}
    env = load_classic_environment(EnvironmentSettings(id="odd.py", folder=folder), folder, offered)
    assert env.system_prompt == "Refunds only. retail 7.0"


LOGGING = """
import faulthandler, logging, logging.config, subprocess, sys
if CONFIGURES: logging.config.dictConfig({"version": 1})
logging.getLogger().addHandler(logging.StreamHandler())
import verifiers as vf
from datasets import Dataset

def load_environment():
    logging.getLogger("of_the_user").warning("loading")
    faulthandler.is_enabled() or faulthandler.enable()
    subprocess.run(["true"], stderr=sys.stderr, check=True)
    sys.stderr.reconfigure(line_buffering=True)
    sys.stderr.encoding.lower()
    return vf.SingleTurnEnv(eval_dataset=Dataset.from_list([{"question": "a"}]), rubric=vf.Rubric())
"""


@pytest.mark.parametrize("configures", [True, False])
def test_what_an_environment_does_with_stderr_and_logging_while_it_loads_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, configures: bool
) -> None:
    """A handler of the root logger that writes to it gets what is logged of it, too. Our own logs go on."""
    (tmp_path / "logging_env.py").write_text(f"CONFIGURES = {configures}\n{LOGGING}")
    root, ours = logging.getLogger(), logging.getLogger("workers")
    handlers, level = list(root.handlers), ours.level
    ours.setLevel(logging.INFO)
    try:
        with open(tmp_path / "stderr", "w") as stderr, redirect_stderr(stderr):
            environment = ClassicEnvironment(EnvironmentSettings(id="logging_env.py"), tmp_path)
            logging.getLogger("workers.episode").info("later")
        assert len(environment.rows()) == 1
        written = [line for line in caplog.messages if line.endswith(("loading", "later"))]
        said = [] if configures else ["said while the environment was loaded: loading"]
        assert written == ["loading", *said, "later"]
    finally:
        root.handlers[:] = handlers
        ours.setLevel(level)
        for logger in root.manager.loggerDict.values():
            if isinstance(logger, logging.Logger):
                logger.disabled = False


def test_what_libraries_say_meanwhile_is_not_on_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(ClassicEnvironment(EnvironmentSettings(id="odd.py"), folder).rows()) == 1
    assert capsys.readouterr().err == ""
    assert sys.stderr is not None
