"""One episode in this very process, without Ray, for whoever writes an environment and looks inside."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from cluster.config import EndpointPolicy, OraclePolicy, RunConfig
from cluster.errors import ConfigError, PolicyUnavailable
from cluster.observe.printing import escape_invisible
from cluster.plan.plan import Plan, load_plan
from cluster.pool.images import ensure_image, with_image
from workers.environments.base import RolloutEnvironment, TaskEnvironment
from workers.environments.classic.environment import ClassicEnvironment
from workers.environments.messages import to_records
from workers.episode import EpisodePlayer
from workers.handed_on import select_worker_variables
from workers.records import EpisodeRecord, EpisodeSpec, Message
from workers.sandbox.base import Owner
from workers.sandbox.pools import SandboxPools
from workers.settings import PolicyEndpoint, WorkerSettings

_STYLES = {"system": "dim", "user": "cyan", "assistant": "green", "tool": "yellow"}
_DEBUG_TIMEOUT = 86_400.0
"""Seconds that a tool call, and all else, may take while somebody looks at it."""


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
    refuse_own_packages(config, "kumite debug")
    loaded, plan = load_plan(config, "debug", shuffled_by=config.name)
    environment = as_classic(config, loaded, "kumite debug")
    spec = _select_episode(plan, task_id)
    endpoint = _resolve_endpoint(config)
    settings = local_worker_settings(
        config, environment, lambda line: console.print(line, style="dim", markup=False)
    )
    settings = settings.model_copy(update={"policy": endpoint})
    task = escape_invisible(spec.task_id)
    console.print(f"task {task}, episode {spec.episode_id}", style="bold", highlight=False, markup=False)
    record = asyncio.run(_play_episode(settings, environment, spec, _ConversationPrinter(console)))
    _show_outcome(record, console)
    return record


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


def local_worker_settings(
    config: RunConfig, environment: RolloutEnvironment, say: Callable[[str], None], process: bool = True
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
    if process:
        sandbox = sandbox.model_copy(update={"setup_timeout": _DEBUG_TIMEOUT, "call_timeout": _DEBUG_TIMEOUT})
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


async def _play_episode(
    settings: WorkerSettings,
    environment: RolloutEnvironment,
    spec: EpisodeSpec,
    shown: "_ConversationPrinter",
) -> EpisodeRecord:
    pool = None
    if environment.toolset is not None:
        pool = SandboxPools(environment.toolset, settings.sandbox, Owner("debug", "debug"), ahead=1)
    client: Any = environment.open_client(settings.policy)
    ask = client.get_response

    async def get_response(prompt: Any, *args: Any, **kwargs: Any) -> Any:
        shown.print_prompt(to_records(prompt))
        response = await ask(prompt, *args, **kwargs)
        shown.print_messages(to_records([response.message]))
        return response

    client.get_response = get_response
    player = EpisodePlayer(settings, environment, pool, client, "debug", "here")
    try:
        [result] = await player.play([spec])
    finally:
        await player.shut_down()
        await environment.tear_down()
    record = EpisodeRecord.model_validate_json(result.record)
    shown.print_prompt(record.messages)
    return record


class _ConversationPrinter:
    """Prints each message of a growing conversation once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._count = 0

    def print_prompt(self, messages: list[Message]) -> None:
        """Prints those of a prompt's messages that were not printed before."""
        if len(messages) < self._count:  # the environment has written the conversation anew
            self._count = 0
        self.print_messages(messages[self._count :])
        self._count = len(messages)

    def print_messages(self, messages: list[Message]) -> None:
        """Prints messages."""
        for message in messages:
            self._count += 1
            text = Text.assemble((f"{message.role}: ", f"bold {_STYLES.get(message.role, '')}"))
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
