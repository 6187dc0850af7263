"""`kumite init`: a working example of an environment, a toolset or a shell task, and a config for it."""

import re
from pathlib import Path
from typing import Literal

from cluster.errors import ConfigError

Kind = Literal["environment", "toolset", "task"]

_ENVIRONMENT = '''"""An environment whose tools are plain Python functions, run in the worker's process."""

import verifiers as vf
from datasets import Dataset


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def correct(completion, answer):
    """The reward: 1 if the last message has the answer in it."""
    return float(answer in (completion[-1].content or ""))


def load_environment(tasks: int = 4):
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {n} + {n + 1}?"}],
            "answer": str(2 * n + 1),
            "info": {"task_id": f"sum-{n}"},
        }
        for n in range(tasks)
    ]
    rubric = vf.Rubric(funcs=[correct])
    return vf.ToolEnv(tools=[add], eval_dataset=Dataset.from_list(rows), rubric=rubric, max_turns=4)
'''
_ENVIRONMENT_CONFIG = """name: {name}
environment:
  id: {name}.py
policy:
  kind: oracle             # plays each row's `answer`; then vllm, or endpoint
"""
# ruff: noqa: E501 - what is written is as wide as its author likes
_TOOLSET_ENVIRONMENT = '''"""The tasks of {name}, whose tools run in a sandbox."""

from workers.environments.toolset_env import ToolsetEnv

NUMBERS = {{"plumber": "555 0142", "dentist": "555 0177"}}


def load_environment(max_turns=8):
    rows = [
        {{
            "prompt": [{{"role": "user", "content": f"Write the {{whom}}'s number into a new note, `call`."}}],
            "info": {{"task_id": whom, "setup": {{"notes": NUMBERS, "wanted": number}}}},
        }}
        for whom, number in NUMBERS.items()
    ]
    return ToolsetEnv("{name}_toolset:NotesToolset", rows, {{"copied": 1.0}}, image="{image}", max_turns=max_turns)
'''
_TOOLSET = '''"""The tools of {name}: what runs in the sandbox."""

from sandbox_images.tool_host.toolset import Scores, Session, ToolResult, Toolset


class NotesToolset(Toolset):
    def open(self, task, prepared, scratch):
        return NotesSession(task["notes"], task["wanted"])


def schema(name, description, *parameters):
    properties = {{parameter: {{"type": "string"}} for parameter in parameters}}
    parameters = {{"type": "object", "properties": properties, "required": list(parameters)}}
    return {{"name": name, "description": description, "parameters": parameters}}


class NotesSession(Session):
    tools = [
        schema("read_note", "Reads a note.", "name"),
        schema("write_note", "Writes a note.", "name", "text"),
    ]
    observation = []

    def __init__(self, notes, wanted):
        self.notes = dict(notes)
        self.wanted = wanted

    def call(self, tool, arguments):
        match tool, arguments:
            case "read_note", {{"name": str(name)}} if name in self.notes:
                return ToolResult(self.notes[name])
            case "write_note", {{"name": str(name), "text": str(text)}}:
                self.notes[name] = text
                return ToolResult("written")
            case _:
                return ToolResult("", f"{{tool}} does not take {{arguments}}; the notes are {{sorted(self.notes)}}")

    def evaluate(self, trace):
        return Scores({{"copied": float(self.notes.get("call") == self.wanted)}})

    def oracle(self):
        name = next(name for name, text in self.notes.items() if text == self.wanted)
        calls = [("read_note", {{"name": name}}), ("write_note", {{"name": "call", "text": self.wanted}})]
        turns = [{{"content": None, "tool_calls": [{{"name": n, "arguments": a}}]}} for n, a in calls]
        return [*turns, {{"content": "Done.", "tool_calls": []}}]
'''
_DOCKERFILE = """# docker build -f {name}.Dockerfile --build-arg KUMITE="$(kumite images build shell | tail -n 1)" -t {image}:1 .
ARG KUMITE
FROM ${{KUMITE}}
COPY {name}_toolset.py /opt/kumite/
"""
_TOOLSET_CONFIG = """name: {name}
environment:
  id: {name}_environment.py
policy:
  kind: oracle             # plays the session's `oracle()`; then vllm, or endpoint
sandbox:
  backend: process         # with no isolation: once the image is built, take this line out
  image: {image}:1
"""
_TASK = {
    "{name}/task.toml": """kind = "write"
difficulty = "easy"
instruction = '''
Write `double.py` with a function `double(number)` that returns twice the number.
`numbers.txt` has some to try.
'''
""",
    "{name}/files/numbers.txt": "1\n2\n21\n",
    "{name}/tests.py": '''"""Hidden tests: functions `test_*`, each given the subject (docs/shell.md)."""


def test_numbers(subject):
    for number in (0, 21, -3):
        assert subject.call("double.double", number) == 2 * number


def test_the_file_is_left_alone(subject):
    assert subject.read("numbers.txt") == "1\\n2\\n21\\n"
''',
    "{name}/solution.toml": '''message = "double.py has it."

[[calls]]
tool = "write_file"
[calls.arguments]
path = "double.py"
content = """
def double(number):
    return 2 * number
"""
''',
    "{name}.yaml": """name: {name}
environment:
  id: shell
  args:
    folder: .              # tasks are the folders here that have a task.toml
    tasks: [{name}]
policy:
  kind: oracle             # plays solution.toml; then vllm, or endpoint
""",
}


def write_example(kind: Kind, name: str, folder: Path) -> tuple[list[Path], list[str]]:
    """Writes a working example.

    Args:
        kind: Of what.
        name: What to call it: of a toolset or an environment, the beginning of a module's name.
        folder: Where to.

    Returns:
        The files, and the commands that play it.

    Raises:
        ConfigError: The name is none that works, or a file is there already; nothing is written then.
    """
    wanted = r"[a-z][a-z0-9_]*" if kind != "task" else r"[A-Za-z0-9][A-Za-z0-9._-]*"
    if not re.fullmatch(wanted, name):
        raise ConfigError(
            f"NAME: got {name!r}; give small letters, digits and underscores, beginning with a letter"
            if kind != "task"
            else f"NAME: got {name!r}; give letters, digits, `.`, `-` and `_`"
        )
    given = {"name": name, "image": name.replace("_", "-").strip("-")}
    texts = {folder / path.replace("{name}", name): text for path, text in _render_files(kind, given).items()}
    for path in texts:
        if path.exists():
            raise ConfigError(f"{path} exists already; give another NAME, or change to another folder")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    config = f"{name}.yaml"
    environment = "PYTHONPATH=. " if kind == "toolset" else ""
    commands = [f"{environment}kumite debug {config}", f"{environment}kumite run {config}"]
    if kind == "task":
        commands = [f"kumite tasks {config} --validate", f"kumite run {config}"]
    return list(texts), commands


def _render_files(kind: Kind, given: dict[str, str]) -> dict[str, str]:
    if kind == "environment":
        return {"{name}.py": _ENVIRONMENT, "{name}.yaml": _ENVIRONMENT_CONFIG.format(**given)}
    if kind == "task":
        return {path: text.replace("{name}", given["name"]) for path, text in _TASK.items()}
    return {
        "{name}_environment.py": _TOOLSET_ENVIRONMENT.format(**given),
        "{name}_toolset.py": _TOOLSET.format(**given),
        "{name}.Dockerfile": _DOCKERFILE.format(**given),
        "{name}.yaml": _TOOLSET_CONFIG.format(**given),
    }
