"""Whose failure an error is, as far as environments of others' raise it."""

import pytest
import verifiers as vf

from workers.environments.classic.outages import classify_outage
from workers.errors import EnvironmentInfraError, EpisodeBlocked, EpisodeFailed, ToolsetError
from workers.failures import failure_kind


def failed_of(error: BaseException) -> EpisodeFailed:
    failure = EpisodeFailed(str(error))
    failure.__cause__ = error
    return failure


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (vf.SandboxError("answered 503"), "sandbox"),
        (vf.TunnelError("gone"), "sandbox"),
        (vf.InfraError("gone"), "sandbox"),
        (EnvironmentInfraError("the judge is down"), "sandbox"),
        (ToolsetError("a bug in a hook"), "environment"),
        (vf.ToolError("no such tool"), "environment"),
        (EpisodeBlocked("held"), "environment"),
    ],
)
def test_infrastructure_is_tried_again_and_the_environments_own_is_not(
    error: BaseException, kind: str
) -> None:
    assert failure_kind(error) == failure_kind(failed_of(error)) == kind


class Answered(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(f"answered {status_code}")
        self.status_code = status_code


@pytest.mark.parametrize(
    ("error", "is_"),
    [
        (Answered(503), "down"),
        (Answered(429), "down"),
        (Answered(500), "failing"),
        (Answered(400), None),
        (ConnectionRefusedError(), "down"),
        (BrokenPipeError(), None),
        (TimeoutError("a grader's own"), None),
        (vf.SandboxError("gone"), None),
        (ValueError(503), None),
    ],
)
def test_an_outage_is_told_from_a_bug(error: Exception, is_: str | None) -> None:
    assert classify_outage(error) == is_
    wrapped = RuntimeError("Judge model API error")
    wrapped.__cause__ = error
    assert classify_outage(wrapped) == is_
