import re
from pathlib import Path
from typing import Any

import pytest
import typer

from cluster.cli.main import app
from cluster.config import RunConfig
from cluster.dataset.dataset import Dataset
from cluster.dataset.schemas import EPISODES, STEPS
from scripts import docs
from tests.cluster.synthetic import episode, result
from workers.settings import Settings

PAGES = [docs.FOLDER.parent / "README.md", *sorted(docs.FOLDER.glob("*.md"))]


@pytest.mark.parametrize("path", docs.make_pages(), ids=lambda path: path.name)
def test_page_is_what_the_models_say(path: Path):
    assert path.read_text() == docs.make_pages()[path], "stale: run `python -m scripts.docs`"


def keys(model: type[Settings], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, info in model.model_fields.items():
        assert info.description, f"{model.__name__}.{name} has no docstring"
        found.add(f"{prefix}{name}")
        for inner in docs.models_in(info.annotation, Settings):
            found |= keys(inner, f"{prefix}{name}.")
    return found


def test_config_page_lists_every_key_with_type_and_default():
    page = docs.config_page()
    for key in keys(RunConfig):
        assert f"| `{key}` | " in page
    for kind in ("vllm", "endpoint", "oracle"):
        assert f"## `policy`, kind `{kind}`\n" in page
    assert "| `policy.sampling.top_p` | number (above 0, at most 1) or null | `null` |" in page
    assert '| `sandbox.backend` | `docker` or `process` | `"docker"` |' in page
    assert "| `environment.id` | text | required |" in page


def test_dataset_page_lists_every_column_with_its_type():
    page = (docs.FOLDER / "dataset.md").read_text()
    for name in {*EPISODES.names, *STEPS.names}:
        assert f"| `{name}` | " in page
    assert "| `reward` | float64 or null |" in page
    assert "| `completion_logprobs` | list of float32 or null |" in page
    assert "| `metrics` | JSON text |" in page
    assert "| `messages[].tool_calls[].function.name` | string |" in page


def test_dataset_page_without_its_markers_is_an_error():
    with pytest.raises(ValueError, match="<!-- columns: episodes -->"):
        docs.dataset_page("# The dataset")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https:", "http:")):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    """What headings are called in a link, as GitHub makes it of their words."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_found_from_the_readme():
    index = docs.FOLDER / "README.md"
    assert "](docs/README.md)" in PAGES[0].read_text()
    names = {page.name for page in PAGES[1:]} - {index.name}
    assert sorted(name for name in names if f"]({name})" not in index.read_text()) == []


def commands(app: typer.Typer, prefix: str) -> list[str]:
    group = typer.main.get_command(app)
    found: list[str] = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found += [f"{prefix} {name}"] if inner is None else [f"{prefix} {name} {each}" for each in inner]
    return found


def test_commands_page_has_every_command():
    page = (docs.FOLDER / "commands.md").read_text()
    there = commands(app, "kumite")
    assert len(there) > 10
    assert [command for command in there if f"| `{command}" not in page] == []


async def test_code_of_the_dataset_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tmp_path / "run"
    async with await Dataset.open(run, "run-1") as dataset:
        await dataset.append(result(episode(0), {"base": '{"owner": "Emma"}'}))
        await dataset.append(result(episode(1)))
        await dataset.commit()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names: dict[str, Any] = {"run": run}
    for block in re.findall(r"```python\n(.*?)```", (docs.FOLDER / "dataset.md").read_text(), re.DOTALL):
        exec(block, names)
    assert [list(names["states_of"](row)) for row in names["episodes"]] == 2 * [
        [{"owner": "Emma", "paid": 0}, {"owner": "Emma", "paid": 1}, {"owner": "Emma", "paid": 2}]
    ]
