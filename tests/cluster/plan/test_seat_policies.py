"""`policies`: each is asked for by an agent of the environment, and each that is asked for is there."""

from typing import Any

import pytest

from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.plan.plan import check_seat_policies


class Asking:
    """An environment whose agents ask for these policies."""

    def __init__(self, **asked: str) -> None:
        self.seat_policies = {f"{seat}.model": policy for seat, policy in asked.items()}


def config(*names: str) -> RunConfig:
    endpoint = {"kind": "endpoint", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    return RunConfig.model_validate(
        {"environment": {"id": "e"}, "policy": endpoint, "policies": dict.fromkeys(names, endpoint)}
    )


def check(given: RunConfig, **asked: str) -> None:
    environment: Any = Asking(**asked)
    check_seat_policies(given, environment)


def test_policies_that_are_asked_for_and_there_are_right():
    check(config())
    check(config("customer"), user="customer")


def test_a_policy_that_is_not_there_is_named_with_those_that_are():
    says = r"environment\.args\.user\.model: got 'gpt', which must be a name under `policies`, and "
    with pytest.raises(ConfigError, match=says + "there are no `policies`"):
        check(config(), user="gpt")
    with pytest.raises(ConfigError, match=says + "`policies` has customer, judge"):
        check(config("customer", "judge"), user="gpt")


def test_a_policy_that_nobody_asks_for_is_named():
    with pytest.raises(ConfigError, match=r"policies\.judge: no agent of e asks for it"):
        check(config("judge"))
