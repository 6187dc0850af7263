"""The records a run produces: one `EpisodeRecord` per episode, with its steps inside.

These models are the one source of the dataset: the Arrow schema and `docs/dataset.md` are derived from
them. A field typed `Json` holds free-form data as JSON text, so that every shard has one schema.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from workers.settings import SamplingSettings, Split
from workers.tracebacks import traceback_of

Json = Annotated[str, Field(json_schema_extra={"format": "json"})]
FailureKind = Literal["policy", "version", "sandbox", "worker", "node", "environment", "task"]
Stage = Literal["queue", "setup", "policy", "tools", "scoring", "worker"]


class Record(BaseModel):
    """Base of all records: unknown keys are errors, and the docstring under a field documents it."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class FunctionCall(Record):
    name: str
    """Name of the tool."""
    arguments: str
    """Arguments as the policy wrote them: JSON text, or whatever it wrote instead."""


class ToolCall(Record):
    id: str
    """Id that the tool's answer refers to."""
    type: Literal["function"] = "function"
    """Always `function`."""
    function: FunctionCall
    """The call."""


class Message(Record):
    """A chat message in OpenAI's shape."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    content: str | None = None
    """Text of the message; content parts other than text are kept as JSON text."""
    reasoning_content: str | None = None
    """Reasoning that the policy's parser separated from the content."""
    tool_calls: list[ToolCall] | None = None
    """Tool calls of an assistant message."""
    tool_call_id: str | None = None
    """The call that a tool message answers."""


class Usage(Record):
    prompt_tokens: int = 0
    """Tokens of all prompts together."""
    completion_tokens: int = 0
    """Sampled tokens."""
    cached_tokens: int | None = None
    """Tokens of the prompts that the policy's server says it had in its cache. Null where it does not say."""


class StepRecord(Record):
    """One turn: a state, an action, its observation and reward."""

    step_index: int
    """Position in the episode, from 0."""
    prompt_messages: list[Message]
    """State, part one: the messages that the policy saw."""
    action: Message
    """The assistant message that the policy produced, tool calls included."""
    observations: list[Message]
    """The messages with which the environment answered; empty in the last step."""
    tool_errors: list[bool] | None = None
    """For each tool call of the action, in order: whether its result was an error. Null if the action has no
    call, the calls were not run, or the environment does not say."""
    state_patch: Json | None = None
    """State, part two: RFC 6902 JSON patch with the changes that this step's tool calls made to the
    environment's state. Null if the environment shows no state, or if the episode's patches are larger than
    8 MiB in total (then in all of its steps)."""
    reward: float | None = None
    """Reward of this step. Null if the environment gives no step rewards; the episode has its own reward."""
    done: bool
    """Whether the episode ended with this step."""
    prompt_token_ids: list[int] | None = None
    """Token ids of the prompt as the policy saw it. Null if the policy does not report them."""
    completion_token_ids: list[int] | None = None
    """Token ids that the policy sampled. Null if the policy does not report them."""
    completion_logprobs: list[float] | None = None
    """Log-probability of each sampled token, under the weights that sampled it, as the policy reports it.
    Kumite's own deployments compute it after temperature, `top_p` and similar settings."""
    no_logprobs: str | None = None
    """Why the step has no token ids and log-probabilities although the policy was asked for them: it sent
    none, or fewer log-probabilities than tokens, or one that is not a finite number. Null if the step has
    them, or the policy was not asked."""
    tools: list[str] | None = None
    """Names of the tools that the policy was offered in this step. Null: all of the episode's
    `tool_schemas`."""
    policy_version: int | None = None
    """Version of the weights that produced the action. Null if it is not known."""
    finish_reason: str | None = None
    """`stop`, `length` or `tool_calls`."""
    usage: Usage | None = None
    """Tokens of this step, as the policy counts them."""
    policy_seconds: float = 0.0
    """Seconds from the request to the action."""
    tools_seconds: float = 0.0
    """Seconds from the action to the observation."""
    agent: str | None = None
    """The agent that took the step, if an agent plays the environment. Null: the environment's own loop, or a
    run of a release without agents."""
    branch: int | None = None
    """Which of the agent's conversations the step belongs to, from 0. The conversation of a sub-agent is a
    branch of its own, and so is a conversation that was shortened. Null if `agent` is null; all steps then
    belong to one conversation."""
    parent_step: int | None = None
    """`step_index` of the step before this one in its branch. For the first step of a branch: the step at
    which the branch began. Null if there is no such step, or `agent` is null."""
    policy: str | None = None
    """The policy that took the step, by its name in `policies`. Null: the run's own, `policy`."""
    trainable: bool | None = None
    """False: a trainer is not to learn from the step, because another policy took it, or because the
    environment says so of its agent. Null if it may learn from it."""
    dialect: Literal["chat", "responses", "messages"] | None = None
    """The API by which the agent called the policy: chat completions, Responses or Anthropic Messages. Null
    if `agent` is null."""
    asked: Json | None = None
    """What the agent's request changed of the run's sampling, as a JSON object: a smaller `max_tokens`,
    `tool_choice`, `parallel_tool_calls`, `stop`, `response_format`. Null if it changed nothing, or `agent` is
    null."""


class EpisodeError(Record):
    stage: Stage
    """In which stage of the episode it failed."""
    kind: FailureKind
    """What failed. `policy`, `version`, `sandbox`, `worker` and `node` may be temporary, so the episode was
    tried again first. `environment` and `task` would fail again, so it was not."""
    type: str
    """Class of the error."""
    message: str
    """The error's message."""
    traceback: str | None = None
    """Where the code of an environment, a toolset, a reward or a defense raised it: the last frames outside
    Kumite, with file, line, function and the line of code. Null if other code raised it, and in a run of a
    release that did not record it."""

    @classmethod
    def of(cls, stage: Stage, kind: FailureKind, error: BaseException) -> "EpisodeError":
        """An error as a record; the first 4,000 characters of what it said."""
        try:
            said = str(error)
        except Exception:  # noqa: BLE001 - a `__str__` of somebody's own, which fails, too
            said = "it cannot say what"
        said = said[:4000].encode("utf-8", "replace").decode()
        where = traceback_of(error) if kind in ("environment", "task") else None
        return cls(stage=stage, kind=kind, type=type(error).__name__, message=said, traceback=where)


class Timings(Record):
    """Seconds per stage. `queue` is from dispatch to the worker's start on it."""

    queue: float = 0.0
    """Waiting for a place on a worker and for its sandbox."""
    setup: float = 0.0
    """Opening the session and setting up the tool resources."""
    policy: float = 0.0
    """Waiting for the policy, all steps together."""
    tools: float = 0.0
    """Running tools, all steps together."""
    scoring: float = 0.0
    """Evaluating, scoring and closing."""
    total: float = 0.0
    """From the dispatch to a worker to the finished record."""


class EpisodeRecord(Record):
    """One episode: one attempt of the policy at one task."""

    episode_id: str
    """Id: a hash of environment, split, task and sample index, the same in every run."""
    task_id: str
    """The task, unique within the environment's split."""
    group_id: str
    """The same for all episodes of one task in one run: the group of GRPO."""
    sample_index: int
    """Which sample of the task this is, from 0."""
    run_id: str
    """The run that made it."""
    environment: str
    """The environment's id. If it is a file: the file's name without its ending."""
    split: Split | None = None
    """The `environment.split` that the task belongs to. Null in a run of a release without splits."""
    suite: str | None = None
    """AgentDojo: the suite."""
    user_task: str | None = None
    """AgentDojo: the user task; null if only an injection task is played."""
    injection_task: str | None = None
    """AgentDojo: the injection task; null if only a user task is played."""
    attack: str | None = None
    """AgentDojo: the attack; null if there is none."""
    defense: str | None = None
    """AgentDojo: the name of the defense; JSON text if it has arguments or is a list. Null: none."""
    preset: str | None = None
    """AgentDojo: `environment.args.preset`; null if it is not set."""
    reward_spec: str | None = None
    """AgentDojo: the name of the reward preset; JSON text if the config gives weights or step rewards
    instead. Null in other environments."""
    status: Literal["finished", "failed"]
    """`finished`; or `failed`, then `error` says why."""
    reward: float | None = None
    """Reward of the episode. Null, never 0, if it failed."""
    metrics: Json = "{}"
    """The environment's metrics by name, as JSON text; a metric that does not apply is null."""
    details: Json | None = None
    """What the toolset's `evaluate` returned beside the metrics (`Scores.details`), as JSON text. For
    `shell`: which hidden tests failed, and why. Under the key `agent`: how an agent ended, and the end of
    what it printed. For verifiers' v1 API, under the key `info`: a list of agent and info, what the hooks of
    each agent's task have noted in `trace.info`. Null if there is nothing, and in a run of a release that did
    not record it."""
    agents: Json | None = None
    """What each agent came to if several have played, as JSON text: a list of agent, policy, trainable,
    branches, reward, metrics and stop_reason, one entry for each time that an agent played. The episode's
    reward is then that of the first trainable agent, or its mean. Null if one agent played, or the
    environment's own loop."""
    connections: Json | None = None
    """The connections that the episode's programs tried to make through the proxy of `sandbox.allow`, allowed
    or refused, as JSON text: a list of host, port, address, outcome, bytes sent and received, and seconds.
    Null if `sandbox.allow` is not set, and in a run of a release without it."""
    stop_reason: str | None = None
    """Name (in verifiers) of the stop condition that ended the episode."""
    is_truncated: bool = False
    """Whether a token limit cut off one of its turns."""
    error: EpisodeError | None = None
    """Why it failed. Null if it finished."""
    messages: list[Message]
    """The whole conversation."""
    tool_schemas: Json = "[]"
    """The tools that the policy was offered, as JSON text: a list of name, description, parameters."""
    initial_state_id: str | None = None
    """Id of the environment's base state in `states/`. Null if there is none."""
    initial_state_patch: Json | None = None
    """RFC 6902 JSON patch from that base state to the state in which the episode began."""
    steps: list[StepRecord]
    """The steps; a table of its own in the dataset."""
    model: str
    """Name of the model, or `oracle`."""
    policy_version: int | None = None
    """Version of the weights that produced the first action."""
    last_policy_version: int | None = None
    """Version that produced the last action. It differs from `policy_version` if weights changed in
    between."""
    sampling: Json | None = None
    """The `sampling` that a trainer's loop asked for, as JSON text with the keys of `policy.sampling`. Null:
    the run's config was used."""
    usage: Usage
    """Tokens of all turns."""
    timings: Timings
    """Seconds per stage."""
    attempt: int = 1
    """Which attempt this is, from 1: failed episodes may be played again."""
    started_at: float
    """When the worker began it: seconds since the epoch."""
    worker_id: str
    """The worker that played it."""
    node_id: str
    """The node of that worker."""
    sandbox_id: str | None = None
    """The sandbox (container or process) that its tools ran in. Null if the environment uses none."""
    digest: str | None = None
    """Digest of the rest of the record, steps included, computed by the worker; `kumite verify` computes it
    again. Null in a run of a release that did not record it."""

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools that the policy was offered: name, description and parameters of each."""
        return json.loads(self.tool_schemas)

    def tools_of(self, step: StepRecord) -> list[dict[str, Any]]:
        """The tools that the policy was offered in one turn, in the order of its prompt."""
        if step.tools is None:
            return self.tools
        by_name = {tool["name"]: tool for tool in self.tools}
        return [by_name[name] for name in step.tools if name in by_name]


class TaskLabels(Record):
    """What AgentDojo's tasks are told apart by; all null elsewhere."""

    suite: str | None = None
    user_task: str | None = None
    injection_task: str | None = None
    attack: str | None = None


class EpisodeSpec(Record):
    """What the coordinator asks of a worker: one rollout of one task."""

    episode_id: str
    task_id: str
    group_id: str
    sample_index: int
    split: Split = "eval"
    """The `environment.split` that the task is of."""
    row: dict[str, Any]
    """The task: the environment's dataset row, as verifiers' `RolloutInput`."""
    attempt: int = 0
    """Which attempt this is, from 1; 0 before the first."""
    dispatched_at: float = 0.0
    """Seconds since the epoch, by the coordinator's clock."""
    seconds_left: float | None = None
    """What is left of `episode.timeout` at dispatch. Null: no limit."""
    policy_version: int | None = None
    """The policy's version at dispatch. Null: the one that the worker was started with."""
    sampling: SamplingSettings | None = None
    """How actions are sampled. Null: as the config says."""

    @property
    def info(self) -> dict[str, Any]:
        """The row's `info`, which verifiers allows to be JSON text; empty where it is none."""
        return info_of(self.row)

    @property
    def sampling_json(self) -> str | None:
        """Its own sampling, as a record has it."""
        return self.sampling.model_dump_json() if self.sampling else None

    @property
    def labels(self) -> TaskLabels:
        """The task's labels, where its row has them."""
        return labels_of(self.row)


class RequestUse(Record):
    """How a worker's requests to the policy fare."""

    worker_id: str
    """The worker."""
    at_once: int | None = None
    """Requests that it would have in flight now. Null: any number."""
    rate: float | None = None
    """Requests that it would start in a second now. Null: any number."""
    refused: int = 0
    """Requests that were refused as too many, since its result before."""
    notices: list[str] = Field(default_factory=list)
    """What is odd about the endpoint; each is told once."""


class EpisodeResult(Record):
    """What a worker gives back: the record as JSON text, and what the coordinator needs to read of it."""

    episode_id: str
    status: Literal["finished", "failed"]
    failure: FailureKind | None = None
    """Whose failure it is, where it failed."""
    reward: float | None
    metrics: dict[str, float | None]
    error_stage: Stage | None = None
    error_message: str | None = None
    error_traceback: str | None = None
    """Where in an author's own code it was raised."""
    printed: str | None = None
    """What the environment and its toolset have printed meanwhile."""
    labels: TaskLabels
    """Suite, user task, injection task and attack."""
    usage: Usage
    timings: Timings
    record: str
    """The `EpisodeRecord` as one line of JSON."""
    lasting: bool = False
    """Whether the policy's failure is one that another attempt does not mend."""
    requests: RequestUse | None = None
    """How the worker's requests fare. Null where nothing is to be told of them."""
    policy_requests: int = 0
    """Actions that the policy gave."""
    sandbox_creations: int = 0
    """Sandboxes that this worker has brought up since its result before."""
    states: dict[str, str] = Field(default_factory=dict)
    """Base states that this worker names for the first time: JSON text by id."""


def info_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's `info`, which verifiers allows to be JSON text; empty where it is neither."""
    info: Any = row.get("info")
    if isinstance(info, str):
        try:
            info = json.loads(info)
        except ValueError:
            return {}
    return dict(cast(Mapping[str, Any], info)) if isinstance(info, Mapping) else {}


def labels_of(row: Mapping[str, Any]) -> TaskLabels:
    """A row's labels, where it has them; what is no text among them, as text."""
    info = info_of(row)
    return TaskLabels(**{name: label_text(info.get(name)) for name in TaskLabels.model_fields})


def label_text(value: Any) -> str | None:
    """A label, an id or the like as text: datasets have numbers and truth values there, too."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text.encode("utf-8", "replace").decode()


def episode_id(environment: str, task_id: str, sample_index: int) -> str:
    """The episode's identity: 16 hexadecimal digits, the same in every run."""
    identity = json.dumps([environment, task_id, sample_index])
    return hashlib.blake2s(identity.encode(), digest_size=8).hexdigest()
