"""Hidden tests: functions `test_*` of a source text, each given the subject to examine."""

import errno
from typing import Any

from sandbox_images.shell.mistakes import find_mistake
from sandbox_images.shell.processes import UnkillableProcesses
from sandbox_images.shell.subject import Subject, SubmissionFailed
from sandbox_images.tool_host.toolset import Scores, ToolsetError

_SOURCE_NAME = "<hidden tests>"
_MISTAKE_TYPES = (
    NameError,
    AttributeError,
    TypeError,
    ImportError,
    LookupError,
    ArithmeticError,
    NotImplementedError,
)
"""What a test raises by its author's mistake, where the submission has had no part in it."""
_SHORTAGE_ERRORS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT}
"""What the system says when it has no more of something, which a submission may have used up."""


def grade(source: str, subject: Subject) -> Scores:
    """Runs the tests in this process: their text is never where a submission could read it.

    Args:
        source: Python source with functions `test_*`, each taking the subject.
        subject: What they examine.

    Returns:
        `solved`, 1 if all tests passed and else 0, and `tests_passed`, the fraction that did. Of each test
        that failed, the details say where. A test in which the examination itself breaks, for want of
        descriptors, memory or processes as a rule, has failed as well: the submission was there before it.
        The details name those, for where others share the container, it may not have been the submission.

    Raises:
        ToolsetError: The source is none, or has no test in it, or a test gives a submission what can't be
            given, uses names that are nowhere defined, or raises before it has looked at the submission at
            all: the fault of the tests' author, which no submission can bring about.
    """
    names: dict[str, Any] = {"__name__": "hidden_tests"}
    try:
        exec(compile(source, _SOURCE_NAME, "exec"), names)
    except Exception as error:
        if is_shortage(error):
            return failed_scores(error)
        raise ToolsetError(f"the hidden tests do not load: {_error_name(error)}") from error
    mistake = find_mistake(source, names)
    if mistake is not None:
        raise ToolsetError(f"the hidden tests are at fault: {mistake}")
    tests = {name: test for name, test in names.items() if name.startswith("test_") and callable(test)}
    if not tests:
        raise ToolsetError("the hidden tests are none")
    failures: dict[str, str] = {}
    shortages: list[str] = []
    for name, test in tests.items():
        try:
            subject.asked = False
            test(subject)
        except SubmissionFailed as error:
            failures[name] = _describe_failure(error)
        except ToolsetError:
            raise
        except UnkillableProcesses as error:  # they would write to what the other tests look at
            return failed_scores(error)
        except Exception as error:
            if (
                isinstance(error, _MISTAKE_TYPES)
                and not subject.asked
                and _raises_afresh(source, name, subject)
            ):
                raise ToolsetError(
                    f"the hidden tests are at fault: {name}, {_describe_failure(error)}"
                ) from error
            failures[name] = _describe_failure(error)
            if is_shortage(error):
                shortages.append(name)
    passed = 1 - len(failures) / len(tests)
    details: dict[str, Any] = {"tests": len(tests), "failures": failures}
    if shortages:
        details["shortages"] = shortages
    return Scores({"solved": float(not failures), "tests_passed": passed}, details)


def _raises_afresh(source: str, name: str, subject: Subject) -> bool:
    """Whether a test raises before it has looked at the submission, in a namespace that has seen none either.

    It is then the author's mistake: nothing that the submission has done or answered can have led to it.
    """
    names: dict[str, Any] = {"__name__": "hidden_tests"}
    subject.asked = False
    try:
        exec(compile(source, _SOURCE_NAME, "exec"), names)
        names[name](subject)
    except _MISTAKE_TYPES:
        return not subject.asked
    except Exception:  # noqa: BLE001 - something else, which may be the submission's doing
        return False
    return False


def failed_scores(error: BaseException) -> Scores:
    """The scores of a submission that broke its own examination as a whole."""
    details: dict[str, Any] = {"tests": 0, "failures": {"examination": _error_name(error)}}
    if is_shortage(error):
        details["shortages"] = ["examination"]
    return Scores({"solved": 0.0, "tests_passed": 0.0}, details)


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that there is no more memory, or no more of something else."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SHORTAGE_ERRORS)


def _describe_failure(error: Exception) -> str:
    """What a test failed with, and at which of its lines."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _SOURCE_NAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}: {_error_name(error)}"


def _error_name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error!s:.300}"
