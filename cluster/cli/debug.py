"""One episode in this very process, without Ray, for whoever writes an environment and looks inside."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.text import Text

from cluster.config import EndpointPolicy, OraclePolicy, RunConfig
from cluster.errors import ConfigError, PolicyUnavailable, RunError
from cluster.observe.printing import escape_invisible
from cluster.plan.apart import EnvironmentApart
from cluster.plan.plan import Plan, load_plan
from cluster.pool.images import ensure_image, with_image
from cluster.pool.packages import lock_packages
from cluster.pool.pythons import ensure_python
from workers import debugging
from workers.environments.base import RolloutEnvironment, TaskEnvironment
from workers.environments.classic.environment import ClassicEnvironment
from workers.handed_on import select_worker_variables
from workers.lanes.interpreter import OwnPython, start_process
from workers.lanes.wire import read_message_now, send_message_now
from workers.records import EpisodeRecord, EpisodeSpec, Message
from workers.settings import PolicyEndpoint, WorkerSettings

_STYLES = {"system": "dim", "user": "cyan", "assistant": "green", "tool": "yellow"}
_DEBUG_TIMEOUT = 86_400.0
"""Seconds that a tool call, and all else, may take while somebody looks at it."""
_END_TIMEOUT = 10.0
"""Seconds that the process of an environment's own Python has to end after its episode."""


def play_debug_episode(config: RunConfig, console: Console, task_id: str | None = None) -> EpisodeRecord:
    """Plays one episode on this process's main thread, where a debugger works, and shows it as it goes on.

    Nothing is written, and there are no time limits.

    Args:
        config: What to play.
        console: Where to show it.
        task_id: The task. None: the first that the config selects.

    Returns:
        The episode's record.

    Raises:
        ConfigError: The config is not right, or there is no such task.
        PolicyUnavailable: Nobody is there to act.
    """
    packages = lock_packages(config.environment)
    loaded, plan = load_plan(config, "debug", shuffled_by=config.name, packages=packages)
    spec = _select_episode(plan, task_id)
    endpoint, others = _resolve_endpoint(config), _resolve_named_endpoints(config)
    in_children = loaded.api == "classic"  # a v1 taskset with programs needs its containers
    settings = local_worker_settings(
        config, loaded, lambda line: console.print(line, style="dim", markup=False), in_children
    )
    limits = {"setup_timeout": _DEBUG_TIMEOUT, "call_timeout": _DEBUG_TIMEOUT}
    sandbox = settings.sandbox.model_copy(update=limits)
    settings = settings.model_copy(update={"policy": endpoint, "policies": others, "sandbox": sandbox})
    task = escape_invisible(spec.task_id)
    console.print(f"task {task}, episode {spec.episode_id}", style="bold", highlight=False, markup=False)
    show = _ConversationPrinter(console).show
    if packages is None:
        record = debugging.play_debug_episode(settings, _as_playable(loaded), spec, show)
    else:
        record = _play_apart(settings, spec, ensure_python(packages), show)
    _show_outcome(record, console)
    return record


def _as_playable(environment: TaskEnvironment) -> RolloutEnvironment:
    """An environment of this very process."""
    assert not isinstance(environment, EnvironmentApart)
    return cast(RolloutEnvironment, environment)


def _play_apart(
    settings: WorkerSettings, spec: EpisodeSpec, python: OwnPython, show: debugging.Show
) -> EpisodeRecord:
    """Plays one episode in a process of the environment's own Python, which has this one's terminal.

    Raises:
        ConfigError: The environment does not load.
        RunError: The process has ended by itself.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = start_process("workers.debugging", python, os.environ, [theirs.fileno()], stdin=None)
        theirs.close()
        try:
            send_message_now(ours, (settings, spec))
            while True:
                what, given = read_message_now(ours)
                if what == "record":
                    return EpisodeRecord.model_validate_json(given)
                if what == "failed":
                    raise ConfigError(given)
                conversation, agent, messages, is_answer = given
                shown = [Message.model_validate(message) for message in messages]
                show(debugging.Shown(conversation, agent, shown, is_answer))
        except (EOFError, OSError) as error:
            raise RunError(
                "the process that plays the episode with the environment's own packages ended by itself; its "
                "last words are above"
            ) from error
        finally:
            _end_process(process)


def _end_process(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def refuse_own_packages(config: RunConfig, command: str) -> None:
    """Refuses an environment with packages of its own, in a command that plays in this very process.

    Raises:
        ConfigError: It has some.
    """
    if config.environment.requirements is not None:
        raise ConfigError(
            f"environment.requirements: `{command}` plays in its own process, where the environment's "
            "packages are not; use `kumite run` with --set limit=1, or install them where Kumite is"
        )


def as_classic(config: RunConfig, environment: TaskEnvironment, command: str) -> ClassicEnvironment:
    """The environment, for a command that knows verifiers' classic API only.

    Raises:
        ConfigError: It is a taskset of the v1 API.
    """
    if not isinstance(environment, ClassicEnvironment):
        raise ConfigError(
            f"environment.id: {config.environment.id} is a taskset of verifiers' v1 API, which `{command}` "
            "does not play yet; use `kumite run` with --set limit=1"
        )
    return environment


def _select_episode(plan: Plan, task_id: str | None) -> EpisodeSpec:
    row = next(plan.rows()) if task_id is None else plan.named([task_id])[0]
    return plan.group(row, 1)[0]


def _resolve_endpoint(config: RunConfig) -> PolicyEndpoint:
    policy = config.policy
    if isinstance(policy, OraclePolicy):
        from cluster.policy.oracle import OraclePolicyClient

        return OraclePolicyClient().endpoint()
    if isinstance(policy, EndpointPolicy):
        from cluster.policy.endpoint import EndpointPolicyClient

        return EndpointPolicyClient(policy).endpoint()
    from cluster.policy.vllm.kept_policy import read_policy_status

    kept = read_policy_status()
    if kept is None or kept.state != "ready":
        raise PolicyUnavailable(
            "policy.kind is `vllm`, but `kumite debug` does not start a deployment. Start one first "
            "with `kumite policy up CONFIG`, or play the ground truth with --set 'policy={kind: oracle}'"
        )
    return PolicyEndpoint(
        kind="openai",
        model=kept.policy.model,
        base_url=kept.policy.base_url,
        version=kept.version,
        token_ids=True,
        request_timeout=policy.request_timeout,
        sampling=policy.sampling,
    )


def _resolve_named_endpoints(config: RunConfig) -> dict[str, PolicyEndpoint]:
    """Where the policies of other agents are.

    Raises:
        PolicyUnavailable: One does not answer, or is of a kind that has to be started.
    """
    from cluster.policy.endpoint import EndpointPolicyClient

    endpoints: dict[str, PolicyEndpoint] = {}
    for name, policy in config.policies.items():
        if not isinstance(policy, EndpointPolicy):
            raise PolicyUnavailable(
                f"policies.{name}.kind: got `{policy.kind}`, and `kumite debug` starts no deployments; give "
                "an endpoint in its place, for example --set "
                f"'policies.{name}={{kind: endpoint, base_url: http://…/v1, model: …}}'"
            )
        try:
            endpoints[name] = EndpointPolicyClient(policy).endpoint()
        except PolicyUnavailable as error:
            raise PolicyUnavailable(f"policies.{name}: {error}") from error
    return endpoints


def local_worker_settings(
    config: RunConfig, environment: TaskEnvironment, say: Callable[[str], None], process: bool = True
) -> WorkerSettings:
    """Makes the settings of an episode in this process, with the oracle as its policy and no time limits.

    Args:
        config: The config of the run.
        environment: The environment that the episode is played in.
        say: Is called with each line of the progress of an image build.
        process: Whether tools run in child processes where the config does not name a backend.
    """
    sandbox = config.sandbox
    if process and "backend" not in sandbox.model_fields_set:
        if sandbox.session_users:
            raise ConfigError("sandbox.session_users needs a container: add --set sandbox.backend=docker")
        sandbox = sandbox.model_copy(update={"backend": "process", "unsafe": True})
    if environment.toolset is not None and sandbox.backend == "docker":
        ensure_image(environment.toolset, sandbox, say)
        sandbox = with_image(environment.toolset, sandbox)
    return WorkerSettings(
        run_id="debug",
        environment=config.environment,
        sandbox=sandbox,
        policy=PolicyEndpoint(kind="oracle", model="oracle"),
        episodes=1,
        seed=config.seed,
        search_path=Path.cwd(),
        env=select_worker_variables(config.workers.env, all_of_them=True),
    )


class _ConversationPrinter:
    """Prints each message of the episode's growing conversations once.

    Args:
        console: Where it prints.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._counts: dict[str, int] = {}

    def show(self, shown: debugging.Shown) -> None:
        """Prints what was not printed before."""
        count = self._counts.get(shown.conversation, 0)
        if shown.is_answer:
            self._print(shown.messages, shown.agent)
            self._counts[shown.conversation] = count + len(shown.messages)
            return
        if len(shown.messages) < count:  # the environment has written the conversation anew
            count = 0
        self._print(shown.messages[count:], shown.agent)
        self._counts[shown.conversation] = len(shown.messages)

    def _print(self, messages: list[Message], agent: str) -> None:
        for message in messages:
            style = f"bold {_STYLES.get(message.role, '')}"
            text = Text.assemble((f"{agent}: " if agent else "", "bold"), (f"{message.role}: ", style))
            if message.reasoning_content:
                text.append(f"({escape_invisible(message.reasoning_content)}) ", style="dim")
            text.append(escape_invisible(message.content or ""))
            for call in message.tool_calls or []:
                said = f"{call.function.name} {call.function.arguments}"
                text.append(f"\n    → {escape_invisible(said)}", style="magenta")
            self._console.print(text, soft_wrap=True)


def _show_outcome(record: EpisodeRecord, console: Console) -> None:
    error = record.error
    if error is None:
        text = f"finished: reward {record.reward}, metrics {record.metrics}, ended by {record.stop_reason}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
        return
    text = Text.assemble(
        ("failed", "bold red"), f" in {error.stage}: {error.type}: {escape_invisible(error.message)}"
    )
    if error.traceback:
        text.append(f"\n{error.traceback}", style="dim")
    console.print(text, soft_wrap=True)
