"""Whose fault an exception in a hidden test is."""

from pathlib import Path

import pytest

from sandbox_images.shell.grading import grade
from sandbox_images.shell.processes import ProcessFamily
from sandbox_images.shell.subject import Subject
from sandbox_images.shell.workspace import Workspace
from sandbox_images.tool_host.toolset import ToolsetError


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    (tmp_path / "answer.txt").write_text("[]")
    workspace = Workspace(str(tmp_path), 1 << 20)
    return Subject(workspace, ProcessFamily(), {}, "done", None, float("inf"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("assert subject.read('answer.txt') == expcted", "uses expcted, which is nowhere defined"),
        ("assert subject.raed('answer.txt')", "a subject has no raed"),
        ("subject.read('answer.txt')\n    subject.cal('f')", "a subject has no cal"),
        ("[][0]", "IndexError"),
        ("import no_such_module", "no_such_module"),
    ],
)
def test_a_mistake_that_no_submission_has_a_part_in_is_the_authors(
    subject: Subject, body: str, said: str
) -> None:
    with pytest.raises(ToolsetError, match=said):
        grade(f"def test_it(subject):\n    {body}\n", subject)


@pytest.mark.parametrize(
    "body",
    [
        "import json\n    json.loads(subject.read('answer.txt'))[0]",
        "{}[subject.output]",
        "assert False",
        "assert subject.read('nowhere')",
        "open('/no/such/file')",
        "raise MemoryError",
    ],
)
def test_what_a_submission_may_have_a_part_in_is_a_score(subject: Subject, body: str) -> None:
    assert grade(f"def test_it(subject):\n    {body}\n", subject).metrics["solved"] == 0.0


def test_a_mistake_that_an_earlier_answer_led_to_is_a_score(subject: Subject) -> None:
    source = """
seen = []
def test_a(subject):
    seen.append(subject.read("answer.txt"))
def test_b(subject):
    if seen:
        [][0]
"""
    assert grade(source, subject).metrics["tests_passed"] == 0.5
