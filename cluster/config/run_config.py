"""The run config: what a user writes in YAML, checked before anything expensive starts."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cluster.config.price import TokenPrice
from cluster.config.trackers import MlflowConfig, WandbConfig
from cluster.errors import ConfigError
from workers.settings import EnvironmentSettings, SamplingSettings, SandboxSettings, Settings


class AdaptersConfig(Settings):
    """Weight updates as LoRA adapters, while the deployment is up."""

    max_rank: Literal[8, 16, 32, 64, 128, 256] = 16
    """Highest rank of an adapter."""
    live: Annotated[int, Field(gt=0)] = 2
    """Versions that vLLM holds at once, the base model aside: those that episodes in flight still use, and
    the newest. One more takes the place of the one unused for longest; a request brings it back."""
    kept: Annotated[int, Field(gt=0)] = 32
    """How many adapter versions stay on disk. At least `adapters.live`, and at least `max_version_lag` + 1.
    An episode whose version was deleted is played again, up to `episode.attempts.version` times."""
    probe: Literal["first", "always", "off"] = "first"
    """Try an adapter out once it is loaded, before it is in use: some tokens are scored with it. Their
    log-probabilities must be finite, and, where the base model's weights are on this machine and fit its
    memory and PEFT is installed, be those that PEFT computes on the CPU. `first`: compared with PEFT where no
    adapter of its kind (settings, modules and shapes) was before. `always`: each. `off`: none is tried."""


def _check_exact_tool_choice(policy: "VllmPolicy | EndpointPolicy", sampling: SamplingSettings) -> None:
    if policy.tokens == "exact" and sampling.tool_choice in ("required", "none"):
        raise ValueError(
            f"policy.tokens is `exact`, where the policy chooses freely, and policy.sampling.tool_choice is "
            f"`{sampling.tool_choice}`: leave it out, or set policy.tokens to `per_turn`"
        )


class VllmPolicy(Settings):
    """One shared vLLM deployment (Ray Serve LLM) that Kumite starts."""

    kind: Literal["vllm"]
    """A vLLM deployment of our own, shared by all workers."""
    model: str = "smollm2-135m"
    """A model folder, a Hugging Face model id, or `smollm2-135m`: the packaged small model."""
    sampling: SamplingSettings = Field(default_factory=SamplingSettings)
    """How actions are sampled."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where vLLM runs. `auto`: on GPUs where Ray sees one, else on the CPU."""
    replicas: Annotated[int, Field(gt=0)] = 1
    """Copies of the model; requests are spread over them."""
    max_replicas: Annotated[int, Field(gt=0)] | None = None
    """Let Ray Serve grow the deployment up to this many replicas under load. Null: fixed size."""
    tensor_parallel: Annotated[int, Field(gt=0)] = 1
    """GPUs per replica."""
    max_model_len: Annotated[int, Field(gt=0)] | None = 8192
    """Context length, in tokens. Null: the model's own."""
    tool_parser: str | None = "hermes"
    """vLLM's tool-call parser for this model (`hermes`, `llama3_json`, `qwen3_coder`, …). Null: none."""
    chat_template: Path | None = None
    """A Jinja chat template to use in place of the model's own. The packaged model brings its own."""
    adapters: AdaptersConfig | None = None
    """Take weight updates (`kumite policy update`, `RolloutEngine.update_policy`) as LoRA adapters, too.
    Null: full checkpoints only."""
    in_flight: Literal["finish", "move"] = "finish"
    """What running episodes do when new weights arrive. `finish`: they finish with the weights they started
    with. If those weights are gone (a full checkpoint replaced them), the episode starts over, up to
    `episode.attempts.version` times. `move`: the next turn uses the new weights."""
    versions_folder: Path | None = None
    """Where new weights are put for the replicas to load; all nodes must see it. Null: the cache folder,
    which is right where the policy runs on this machine; on a cluster of several, updates are refused."""
    max_version_lag: Annotated[int, Field(ge=0)] | None = None
    """How stale an episode may be: the current version minus the version of its first turn, when it ends. A
    staler episode is discarded and played again, up to `episode.attempts.version` times. Null: any number."""
    tokens: Literal["per_turn", "exact"] = "per_turn"
    """What a turn's prompt is made of. `per_turn`: the messages so far, by the chat template, anew each turn.
    `exact`: the turn before verbatim (its prompt, and the ids it sampled), and the messages since, so that an
    episode is one sequence; over vLLM's `/inference/v1/generate`."""
    renderer: str | None = None
    """With `exact`: a renderer of the renderers package (`qwen3`, `glm-4.5`, …) that is written for this
    model, which reads its answers, too. Null: found by the model's name; else its chat template, once that is
    seen to be exact, and `policy.tool_parser`."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """More vLLM engine arguments, as `vllm serve` names them, with underscores. They override Kumite's own.
    Two of those matter for training: `logprobs_mode: processed_logprobs`, and `generation_config: vllm`,
    which ignores the model's own default `top_k`, `top_p`, … Set `auto` to use those defaults (not possible
    with `tokens: exact`). On a CPU, `dtype` is `bfloat16` if the CPU has instructions for it, else
    `float32`."""
    cpu_kv_cache_gb: Annotated[int, Field(gt=0)] = 2
    """KV-cache memory of one replica on the CPU, in GiB."""
    keep_alive: bool = False
    """Leave the deployment up when the run ends, for the next run to use; `kumite policy down` ends it."""
    start_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that the deployment may take to come up."""
    request_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that one request may take, waiting for a policy that is down included."""
    price: TokenPrice | None = None
    """What a million tokens cost, for `kumite show` to tell the cost of the run. Null: not told."""

    @model_validator(mode="after")
    def _check_exact_tokens(self) -> "VllmPolicy":
        _check_exact_tool_choice(self, self.sampling)
        return self

    @property
    def kept_versions(self) -> int | None:
        """Versions that stay, where they are adapters. None: the deployment takes none."""
        if self.adapters is None:
            return None
        return max(self.adapters.kept, self.adapters.live, (self.max_version_lag or 0) + 1)


class EndpointPolicy(Settings):
    """Any OpenAI-compatible URL, started by someone else."""

    kind: Literal["endpoint"]
    """An OpenAI-compatible endpoint."""
    base_url: str = Field(pattern=r"^https?://")
    """Root of the API, for example `http://127.0.0.1:8000/v1`; it must be reachable from the workers."""
    model: str
    """Model name to send with every request."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key, where the run is started; workers are handed
    the key. Null: no key."""
    token_ids: bool = False
    """Ask for token ids and log-probabilities with every request (a vLLM server gives them). These are of
    what it sampled from, as a trainer needs them, where the server was started with `--logprobs-mode
    processed_logprobs`; with `--generation-config vllm`, it adds no `top_k` or `top_p` of the model's own."""
    tokens: Literal["per_turn", "exact"] = "per_turn"
    """What a turn's prompt is made of. `per_turn`: the messages so far, by the chat template, anew each turn.
    `exact`: the turn before verbatim (its prompt, and the ids it sampled), and the messages since, so that an
    episode is one sequence; over vLLM's `/inference/v1/generate`."""
    renderer: str | None = None
    """With `exact`: a renderer of the renderers package (`qwen3`, `glm-4.5`, …) that is written for this
    model, which reads its answers, too. Null: found by the model's name; else its chat template, once that is
    seen to be exact, and `policy.tool_parser`."""
    tokenizer: str | None = None
    """With `exact`: the model's folder, or its id on the Hugging Face hub. Null: `model`."""
    tool_parser: str | None = "hermes"
    """With `exact`, by the chat template: the parser of tool calls for this model; others than `hermes` are
    vLLM's own, for which it must be installed where the workers run. Null: none."""
    sampling: SamplingSettings = Field(default_factory=SamplingSettings)
    """How actions are sampled."""
    request_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that one request may take, waiting for a policy that is down included."""
    price: TokenPrice | None = None
    """What a million tokens cost, for `kumite show` to tell the cost of the run. Null: not told."""

    @model_validator(mode="after")
    def _check_exact_tokens(self) -> "EndpointPolicy":
        _check_exact_tool_choice(self, self.sampling)
        return self


class OraclePolicy(Settings):
    """Replays each task's ground truth through the same client interface: no model."""

    kind: Literal["oracle"]
    """The task's own ground truth."""


Policy = Annotated[VllmPolicy | EndpointPolicy | OraclePolicy, Field(discriminator="kind")]


def check_sampling(policy: Policy, sampling: SamplingSettings) -> None:
    """Sees that a policy can be sampled otherwise than its config says.

    Raises:
        ConfigError: It can't.
    """
    if isinstance(policy, OraclePolicy):
        return
    try:
        _check_exact_tool_choice(policy, sampling)
    except ValueError as error:
        raise ConfigError(f"sampling: {error}") from error


class WorkersConfig(Settings):
    min: Annotated[int, Field(ge=0)] = 1
    """Fewest workers (Ray actors) while the run lasts."""
    max: Annotated[int, Field(gt=0)] = 2
    """Most workers. There are as many as the episodes still to come can use; those that find no room
    have Ray's autoscaler bring up nodes, and the run goes on meanwhile with those that are there."""
    episodes_per_worker: Annotated[int, Field(gt=0)] = 16
    """Episodes that one worker runs at once, all in its one container."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 0.5
    """CPUs that Ray reserves for one worker. Workers mostly wait; a fraction is enough."""
    max_in_flight: Annotated[int, Field(gt=0)] | None = None
    """Most episodes that all workers play at once, for a policy that gains nothing from more requests: no
    workers are asked for beyond it. Null: as many as fit the workers."""
    headroom: Literal["auto", "off"] = "auto"
    """`auto`: adapt the number of running episodes to the model server (`policy.kind: vllm`). If requests
    queue there for several seconds, reduce it by the length of the queue and release idle workers. When the
    queue is empty, raise it again step by step. It never falls below what `workers.min` workers hold. `off`:
    as many episodes as fit the workers, or `max_in_flight`."""
    idle_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Seconds for which a worker that the rest of the run can do without stays before it is given back."""
    env: list[str] = Field(default_factory=list[str])
    """Names of environment variables of the driver's shell that the environment's code finds on workers, such
    as the key of a judge. On this machine alone all of them are there, without being named. Of those whose
    names look like a secret's, the values are kept out of the run's files and of all logs."""
    memory_mb: Annotated[int, Field(gt=0)] | None = None
    """Memory of the process that plays episodes, in MiB, above which another takes its place as soon as
    those that it has have ended: for environments that leak. Null: no limit."""
    block_seconds: Annotated[float, Field(gt=1)] = 3.0
    """Seconds for which an episode's own code may hold up those that share a process with it. They are then
    played anew in another, which costs them no attempt; the one that blocks has until `episode.timeout`."""
    start_timeout: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds in which the first worker must be up. A node that a cloud has to start takes minutes."""

    @model_validator(mode="after")
    def _check_min_below_max(self) -> "WorkersConfig":
        if self.min > self.max:
            raise ValueError(f"workers.min is {self.min}, more than workers.max, {self.max}")
        return self


class AttemptsConfig(Settings):
    policy: Annotated[int, Field(gt=0)] = 2
    """Times an episode is played when the policy fails it. Requests are repeated by themselves before."""
    version: Annotated[int, Field(gt=0)] = 5
    """Times an episode is played when the policy's versions go on under it: a full checkpoint takes the place
    of the weights that it began with (replicas take it one by one, and one that is still to come may be where
    it is played again), or `policy.max_version_lag` is passed."""
    sandbox: Annotated[int, Field(gt=0)] = 3
    """Times an episode is played when its sandbox dies, or does not come up."""
    worker: Annotated[int, Field(gt=0)] = 2
    """Times an episode is played when its worker dies: it may be what kills it."""
    node: Annotated[int, Field(gt=0)] = 10
    """Times an episode is played when the node under its worker is lost, as spot machines are."""


class EpisodeConfig(Settings):
    timeout: Annotated[float, Field(gt=0)] | None = 1800.0
    """Seconds that one episode may take from the moment a worker has room for it: queue, set-up, policy,
    tools, scoring, and all attempts together. Null: no limit."""
    stop_after: Annotated[int, Field(gt=0)] | None = 20
    """Episodes in a row that fail with the same cause, which trying again cannot mend, after which the run
    stops: the policy refuses an episode's first request (401, 403, 404, 400, …), or the same exception comes
    out of the environment. `--resume` goes on where it stopped. Null: never."""
    drain_seconds: Annotated[float, Field(ge=0)] = 10.0
    """Seconds that episodes in flight get to end when the run is asked to (SIGINT, SIGTERM)."""
    attempts: AttemptsConfig = Field(default_factory=AttemptsConfig)
    """How often an episode is played when something fails that may work the next time. A task that fails
    by itself, or by a bug of the environment, is played once."""


class RayConfig(Settings):
    address: str | None = None
    """`auto` or an address: use that cluster. Null: the cluster this driver was submitted to, else the
    local one that a kept policy lives on, else a local one of this run's own."""
    num_cpus: Annotated[int, Field(gt=0)] | None = None
    """Logical CPUs of a local cluster. Null: the machine's cores, and room for policy and workers."""


class ObserveConfig(Settings):
    every: Annotated[float, Field(gt=0)] = 10.0
    """Seconds between two lines of the run's `metrics.jsonl`."""
    spans: bool = False
    """Send an OpenTelemetry span for every episode; needs the extra `otel` (`pip install -e '.[otel]'`, in
    Kumite's folder). OpenTelemetry's own environment variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, …) say where
    to."""
    wandb: WandbConfig | None = None
    """Send the figures of `metrics.jsonl` and the means of all metrics to Weights & Biases; needs the extra
    `wandb`. `{}` takes the defaults. Null: nothing is sent."""
    mlflow: MlflowConfig | None = None
    """Send them to MLflow; needs the extra `mlflow`. `{}` takes the defaults. Null: nothing is sent."""
    tensorboard: str | None = None
    """Folder for TensorBoard's event files, which go into a folder of the run's name in it; needs the extra
    `tensorboard`. Null: none are written."""


class RunConfig(Settings):
    """One run."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run's folder, `<output>/<name>-<time>`."""
    environment: EnvironmentSettings
    """What the policy acts in."""
    policy: Policy
    """Who acts."""
    sandbox: SandboxSettings = Field(default_factory=SandboxSettings)
    """Where the environment's tools run."""
    workers: WorkersConfig = Field(default_factory=WorkersConfig)
    """How many episodes run at once, and where."""
    samples: Annotated[int, Field(gt=0)] = 1
    """Episodes per task: the size of a group."""
    keep: Annotated[int, Field(gt=0)] | None = None
    """Episodes of each group that are wanted: as soon as so many have finished, the rest is cancelled, so
    that no group waits for its slowest. Null: all. Not for environments that score a group as a whole."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Play only so many tasks: which ones, `limit_by` says. Null: all."""
    limit_by: Literal["order", "kind"] = "order"
    """Which tasks `limit` takes. `order`: the first ones, after shuffling. `kind`: one of each kind in turn,
    in the same order: of each suite and mode of AgentDojo, of each member of an `EnvGroup`."""
    shuffle: bool = False
    """Shuffle the tasks (seeded by `seed`). Within each block of 64, tasks with the same tools are put next
    to each other, so that vLLM's prefix cache is used. False: keep the environment's order, for example for a
    curriculum."""
    seed: int | None = None
    """Seeds the shuffling and each request's sampling. Null: `name` seeds the shuffling, and nothing the
    sampling."""
    episode: EpisodeConfig = Field(default_factory=EpisodeConfig)
    """Limits of one episode."""
    ray: RayConfig = Field(default_factory=RayConfig)
    """Which Ray cluster."""
    observe: ObserveConfig = Field(default_factory=ObserveConfig)
    """What a run tells of itself while it lasts."""
    output: str = "runs"
    """Folder in which the run's folder is made, or a URI: `s3://…`, `gs://…`, or what else fsspec knows."""
    upload_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Where the run's folder is at a URI: seconds from one time that the copy there is brought up to date to
    the next."""

    @model_validator(mode="after")
    def _check_keep_below_samples(self) -> "RunConfig":
        if self.keep is not None and self.keep > self.samples:
            raise ValueError(f"keep is {self.keep}, more than samples, {self.samples}")
        return self
