"""The code and the tables of the pages say what the code of the project does."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli.init import write_example
from cluster.cli.matrix import has_matrix, load_cells
from cluster.config.file import load_config
from sandbox_images.shell.subject import Subject
from sandbox_images.shell.toolset import ShellSession
from tests.helpers.pages import PAGES, ROOT, blocks_by_task

LEAST = {"environment": {"id": "e"}, "policy": {"kind": "oracle"}}
CONFIGS = [
    pytest.param(yaml.safe_load(text), id=f"{page.name}-{number}")
    for page in PAGES
    for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.M | re.S))
]


def cells(page: str, heading: str) -> str:
    """The first cells of the rows of a table, by the first cell of its head."""
    table = (ROOT / page).read_text().split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    return " ".join(line.split("|")[1] for line in table.splitlines()[2:])


@pytest.mark.parametrize("given", CONFIGS)
def test_every_config_of_a_page_is_one(given: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**LEAST, **given}))
    if has_matrix(path):
        assert len(load_cells(path)) > 1
    else:
        load_config(path)


def test_readmes_config_is_small_on_a_machine_without_a_gpu() -> None:
    text = next(
        text for text in re.findall(r"```yaml\n(.*?)```", PAGES[0].read_text(), re.S) if "my_run" in text
    )
    limit, samples = map(int, re.findall(r"limit: (\d+), samples: (\d+)", text)[0])
    assert limit * samples <= 16 and "smollm2-135m" in text.split("name:")[0]


def test_shell_page_names_all_that_a_hidden_test_is_given() -> None:
    public = {name for name in vars(Subject) if not name.startswith("_")}
    listed = cells("docs/shell.md", "of the subject")
    assert public and {name for name in public if f"`{name}" not in listed} == set()


def test_shell_page_names_all_keys_of_an_evaluation() -> None:
    source = inspect.getsource(ShellSession.evaluate)
    keys = set(re.findall(r'trace\["(\w+)"\]', source))
    assert keys and set(re.findall(r"`(\w+)`", cells("docs/shell.md", "key of `evaluate`"))) == keys


def test_what_init_writes_of_a_toolset_is_what_the_page_shows(tmp_path: Path) -> None:
    write_example("toolset", "notes", tmp_path)
    shown = {block.file: block.text for block in blocks_by_task()["own-toolset"] if block.file}
    for name in ("notes_environment.py", "notes_toolset.py"):
        written = (tmp_path / name).read_text().split('"""', 2)[2]
        assert written.strip() == shown[name].split("\n", 1)[1].strip()
    config, page = (
        yaml.safe_load(text) for text in ((tmp_path / "notes.yaml").read_text(), shown["notes.yaml"])
    )
    assert config.pop("sandbox") == {**page.pop("sandbox"), "backend": "process"}
    assert config == page


def test_own_environment_with_a_toolset_is_short() -> None:
    [shown] = [block for block in blocks_by_task()["own-toolset"] if block.file == "notes_environment.py"]
    assert len(shown.text.splitlines()) <= 20


@pytest.mark.parametrize("word", ["rollout", "episode", "session", "toolset", "policy", "tool host", "step"])
def test_glossary_defines_the_words_of_the_field(word: str) -> None:
    assert word in (ROOT / "docs" / "glossary.md").read_text()
