"""The seats of an environment's episodes: which there are, and which policy plays each."""

from dataclasses import dataclass
from typing import Any, cast

from workers.errors import EnvironmentLoadError

_MARK = "policies."
"""How the model of a seat is called within this process that a policy of `policies` plays."""


@dataclass(frozen=True)
class Seat:
    """One agent that an environment's episodes declare."""

    name: str
    policy: str | None
    """The policy that plays it, of `policies`. None: the run's own."""
    sampling: dict[str, Any]
    """Its own sampling arguments, which its policy's win over."""

    @property
    def model(self) -> str | None:
        """What its model is called within this process. None: the run's."""
        return None if self.policy is None else f"{_MARK}{self.policy}"


def policy_of(model: str) -> str | None:
    """The policy of `policies` that a model's name within this process means. None: the run's own."""
    return model.removeprefix(_MARK) if model.startswith(_MARK) else None


def seat_names(config_class: Any) -> list[str]:
    """The seats that an environment's config declares, in order.

    Args:
        config_class: verifiers' class of it.
    """
    from verifiers.v1.configs.agent import AgentConfig

    fields: dict[str, Any] = config_class.model_fields
    return [name for name, field in fields.items() if isinstance(field.default, AgentConfig)]


def fill_seat(config_class: Any, name: str, given: dict[str, Any], runtime: dict[str, Any]) -> dict[str, Any]:
    """A seat's config as verifiers takes it: a plain chat, where neither the author nor the user says more.

    Args:
        config_class: verifiers' class of the environment's config.
        name: The seat.
        given: What the user gives.
        runtime: The runtime's config.

    Raises:
        EnvironmentLoadError: What the user gives is wrong.
    """
    where = f"environment.args.{name}"
    harness: Any = given.get("harness") or {}
    if not isinstance(harness, dict):
        raise EnvironmentLoadError(
            f"{where}.harness: got {harness!r}; give an object with keys, as under verifiers' "
            f"[env.{name}.harness]"
        )
    harness = dict(cast(dict[str, Any], harness))
    declared: Any = config_class.model_fields[name].default.harness
    harness["id"] = harness.get("id") or (declared.id if declared is not None else "null")  # YAML's null
    return {**_with_named_policy(given, where), "harness": harness, "runtime": runtime}


def _with_named_policy(given: dict[str, Any], where: str) -> dict[str, Any]:
    """A seat's config, in which `model` alone names its policy: `client` may do so, too."""
    client: Any = given.get("client")
    if client is None:
        return given
    if not isinstance(client, str):
        raise EnvironmentLoadError(
            f"{where}.client: an endpoint belongs under `policies`; put it there under a name, and give that "
            f"name as {where}.model"
        )
    if given.get("model") not in (None, client):
        raise EnvironmentLoadError(
            f"{where}.client: got {client!r}, and {where}.model is {given['model']!r}; each names a policy "
            "of `policies`: give one of them"
        )
    return {name: value for name, value in given.items() if name != "client"} | {"model": client}


def take_seats(env: Any) -> dict[str, Seat]:
    """The seats of an environment; what says who plays them is taken out of its config.

    Args:
        env: verifiers' environment.
    """
    seats: dict[str, Seat] = {}
    specs: dict[str, Any] = env._agent_specs
    for name, spec in specs.items():
        own = spec.sampling
        sampling: dict[str, Any] = {} if own is None else own.model_dump(exclude_none=True)
        seats[name] = Seat(name, spec.model, sampling)
        spec.sampling = None  # it is merged with the policy's, which wins
        spec.model = seats[name].model
    return seats
