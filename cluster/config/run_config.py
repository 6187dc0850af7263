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
    """How many adapter versions vLLM holds in memory at once: the newest, and those that running episodes
    still use. If one more is needed, it replaces the version that was not used for the longest time. A
    request for that version loads it again."""
    kept: Annotated[int, Field(gt=0)] = 32
    """How many adapter versions stay on disk. At least `adapters.live`, and at least `max_version_lag` + 1.
    An episode whose version was deleted is played again, up to `episode.attempts.version` times."""
    probe: Literal["first", "always", "off"] = "first"
    """Try a loaded adapter out before it is used: the deployment scores some tokens with it. Their
    log-probabilities must be finite, and they must agree with those that PEFT computes on the CPU. `first`:
    compare with PEFT only the first adapter of a kind (settings, modules and shapes). `always`: compare each.
    `off`: do not try adapters out. The comparison needs PEFT, and the base model's weights and enough memory
    for them on this machine; without these, a warning says that nothing was compared."""


def _check_exact_tool_choice(policy: "VllmPolicy | EndpointPolicy", sampling: SamplingSettings) -> None:
    if policy.tokens == "exact" and sampling.tool_choice in ("required", "none"):
        raise ValueError(
            f"policy.sampling.tool_choice `{sampling.tool_choice}` does not work with policy.tokens `exact`: "
            "leave it out, or set policy.tokens to `per_turn`"
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
    """Where vLLM runs. `auto`: on GPUs if Ray has any, else on the CPU."""
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
    """Accept LoRA adapters as weight updates (`kumite policy update`, `RolloutEngine.update_policy`), not
    only full checkpoints. Null: full checkpoints only."""
    in_flight: Literal["finish", "move"] = "finish"
    """What running episodes do when new weights arrive. `finish`: they finish with the weights they started
    with. If those weights are gone (a full checkpoint replaced them), the episode starts over, up to
    `episode.attempts.version` times. `move`: the next turn uses the new weights."""
    versions_folder: Path | None = None
    """Folder to which new weights are copied, and from which the replicas load them; all nodes must see it.
    Null: the cache folder of this machine; on a cluster of several machines, updates are then refused."""
    max_version_lag: Annotated[int, Field(ge=0)] | None = None
    """How stale an episode may be: the current version minus the version of its first turn, when it ends. A
    staler episode is discarded and played again, up to `episode.attempts.version` times. Null: any number."""
    tokens: Literal["per_turn", "exact"] = "per_turn"
    """How the prompt of a turn is made. `per_turn`: the chat template renders all messages so far, anew in
    each turn. `exact`: the ids of the turn before (prompt and sampled), unchanged, then the new messages, so
    that an episode is one sequence; this uses vLLM's `/inference/v1/generate`."""
    renderer: str | None = None
    """With `exact`: the renderer in the renderers package (`qwen3`, `glm-4.5`, …) for this model; it writes
    prompts and reads answers. Null: the one for the model's name. If there is none, the model's chat template
    writes prompts (it is checked first) and `policy.tool_parser` reads answers."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """More vLLM engine arguments, as `vllm serve` names them, with underscores. They override Kumite's own.
    Two of those matter for training: `logprobs_mode: processed_logprobs`, and `generation_config: vllm`,
    which ignores the model's own default `top_k`, `top_p`, … Set `auto` to use those defaults (not possible
    with `tokens: exact`). On a CPU, `dtype` is `bfloat16` if the CPU has instructions for it, else
    `float32`."""
    cpu_kv_cache_gb: Annotated[int, Field(gt=0)] = 2
    """KV-cache memory of one replica on the CPU, in GiB."""
    keep_alive: bool = False
    """Keep the deployment when the run ends, so that the next run can use it; `kumite policy down` ends
    it."""
    start_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that the deployment may take to start."""
    request_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that one request may take, including the wait for a server that is down."""
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
    """Name of the environment variable with the API key. It must be set where you start the run; workers get
    the key from there. Null: no key."""
    token_ids: bool = False
    """Ask for token ids and log-probabilities with every request (a vLLM server reports them). For training,
    start the server with `--logprobs-mode processed_logprobs`, so that log-probabilities are computed after
    temperature and `top_p`, and with `--generation-config vllm`, so that it ignores the model's own default
    `top_k` and `top_p`."""
    tokens: Literal["per_turn", "exact"] = "per_turn"
    """How the prompt of a turn is made. `per_turn`: the chat template renders all messages so far, anew in
    each turn. `exact`: the ids of the turn before (prompt and sampled), unchanged, then the new messages, so
    that an episode is one sequence; this uses vLLM's `/inference/v1/generate`."""
    renderer: str | None = None
    """With `exact`: the renderer in the renderers package (`qwen3`, `glm-4.5`, …) for this model; it writes
    prompts and reads answers. Null: the one for the model's name. If there is none, the model's chat template
    writes prompts (it is checked first) and `policy.tool_parser` reads answers."""
    tokenizer: str | None = None
    """With `exact`: the model's folder, or its id on the Hugging Face hub. Null: `model`."""
    tool_parser: str | None = "hermes"
    """With `exact`, if the chat template writes prompts: the parser of tool calls for this model. Every
    parser except `hermes` is vLLM's, so vLLM must be installed where the workers run. Null: none."""
    sampling: SamplingSettings = Field(default_factory=SamplingSettings)
    """How actions are sampled."""
    request_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that one request may take, including the wait for a server that is down."""
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


PolicyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
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
    """Most workers. A run asks for as many as its remaining episodes need. If a worker does not fit the
    cluster, Ray's autoscaler starts a node; meanwhile the run goes on with the other workers."""
    episodes_per_worker: Annotated[int, Field(gt=0)] = 16
    """Episodes that one worker runs at once, all in its one container."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 0.5
    """CPUs that Ray reserves for one worker. Workers mostly wait; a fraction is enough."""
    max_in_flight: Annotated[int, Field(gt=0)] | None = None
    """Most episodes that all workers together play at once; the run asks for no more workers than these need.
    Set it if more requests would not make the policy faster. Null: as many as fit the workers."""
    headroom: Literal["auto", "off"] = "auto"
    """`auto`: adapt the number of running episodes to the model server (`policy.kind: vllm`). If requests
    queue there for several seconds, reduce it by the length of the queue and release idle workers. When the
    queue is empty, raise it again step by step. It never falls below what `workers.min` workers hold. `off`:
    as many episodes as fit the workers, or `max_in_flight`."""
    idle_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Seconds after which a worker that the run no longer needs is given back."""
    env: list[str] = Field(default_factory=list[str])
    """Names of environment variables of the driver's shell that the environment's code needs on workers, for
    example the key of a judge. Workers on this machine get all variables, without naming them here. If a name
    looks like that of a secret, its value is kept out of the run's files and all logs."""
    memory_mb: Annotated[int, Field(gt=0)] | None = None
    """For environments that leak memory: if a process that plays episodes uses more than this, in MiB, it is
    replaced when its running episodes have ended. Null: no limit."""
    block_seconds: Annotated[float, Field(gt=1)] = 3.0
    """Seconds for which the code of one episode may block the other episodes in its process. These then start
    over in another process, which does not count as an attempt. The blocking episode may go on until
    `episode.timeout`."""
    start_timeout: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds until the first worker must be running. If a cloud must start a node for it, this takes
    minutes."""

    @model_validator(mode="after")
    def _check_min_below_max(self) -> "WorkersConfig":
        if self.min > self.max:
            raise ValueError(f"workers.min is {self.min}, but workers.max is only {self.max}")
        return self


class AttemptsConfig(Settings):
    policy: Annotated[int, Field(gt=0)] = 2
    """Most times that an episode is played if the policy fails. Single requests are repeated before this
    counts."""
    version: Annotated[int, Field(gt=0)] = 5
    """Most times that an episode is played if weights change while it runs: a full checkpoint replaces the
    weights that it began with, or it becomes staler than `policy.max_version_lag`. Replicas load a checkpoint
    one by one, so the next attempt may meet an old replica and be interrupted again."""
    sandbox: Annotated[int, Field(gt=0)] = 3
    """Most times that an episode is played if its sandbox dies or does not start."""
    worker: Annotated[int, Field(gt=0)] = 2
    """Most times that an episode is played if its worker dies. The episode itself may be the cause."""
    node: Annotated[int, Field(gt=0)] = 10
    """Most times that an episode is played if the node of its worker is lost, as happens with spot
    machines."""


class EpisodeConfig(Settings):
    timeout: Annotated[float, Field(gt=0)] | None = 1800.0
    """Seconds that one episode may take, counted from when a worker has room for it: queue, set-up, policy,
    tools, scoring, and all attempts together. Null: no limit."""
    stop_after: Annotated[int, Field(gt=0)] | None = 20
    """Stop the run if so many episodes in a row fail with the same cause, and more would fail, too: the
    policy refuses an episode's first request (401, 403, 404, 400, …), or the environment raises the same
    exception. `--resume` continues the run. Null: never stop."""
    drain_seconds: Annotated[float, Field(ge=0)] = 10.0
    """Seconds that running episodes get to end when the run is told to stop (SIGINT, SIGTERM)."""
    attempts: AttemptsConfig = Field(default_factory=AttemptsConfig)
    """How often an episode is played if it fails for a reason that may be temporary. An episode that fails
    because of its task, or of a bug in the environment, is played once."""


class RayConfig(Settings):
    address: str | None = None
    """`auto` or an address: use that cluster. Null: the cluster that this driver was submitted to; else the
    local cluster of a kept deployment; else a new local cluster for this run."""
    num_cpus: Annotated[int, Field(gt=0)] | None = None
    """Logical CPUs of a local cluster. Null: the machine's cores, or more if policy and workers need them."""


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
    """The environment that the policy acts in."""
    policy: Policy
    """The policy that acts."""
    policies: dict[PolicyName, EndpointPolicy] = Field(default_factory=dict)
    """More policies, by name, for environments of several agents (verifiers' v1 API). If an agent's `model`
    in `environment.args` is such a name, that policy plays it; `policy` plays all other agents. A trainer
    does not learn from what these policies play; `token_ids` and `tokens` have no effect here."""
    sandbox: SandboxSettings = Field(default_factory=SandboxSettings)
    """Where the environment's tools run."""
    workers: WorkersConfig = Field(default_factory=WorkersConfig)
    """How many episodes run at once, and where."""
    samples: Annotated[int, Field(gt=0)] = 1
    """Episodes per task: the size of a group."""
    keep: Annotated[int, Field(gt=0)] | None = None
    """How many episodes of each group to keep: when so many have finished, the rest of the group is
    cancelled, so that no group waits for its slowest episode. Null: all. Not possible if the environment
    scores groups as a whole."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """How many tasks to play; `limit_by` says which. Null: all."""
    limit_by: Literal["order", "kind"] = "order"
    """Which tasks `limit` selects. `order`: the first ones, after shuffling. `kind`: one of each kind in
    turn, in this order. A kind is a suite and mode of AgentDojo, or a member of an `EnvGroup`."""
    shuffle: bool = False
    """Shuffle the tasks (seeded by `seed`). Within each block of 64, tasks with the same tools are put next
    to each other, so that vLLM's prefix cache is used. False: keep the environment's order, for example for a
    curriculum."""
    seed: int | None = None
    """Seed of the shuffling and of each request's sampling. Null: `name` is the seed of the shuffling, and
    sampling has no seed."""
    episode: EpisodeConfig = Field(default_factory=EpisodeConfig)
    """Limits of one episode."""
    ray: RayConfig = Field(default_factory=RayConfig)
    """Which Ray cluster."""
    observe: ObserveConfig = Field(default_factory=ObserveConfig)
    """What a run reports while it is running."""
    output: str = "runs"
    """Folder in which the run's folder is created, or a URI: `s3://…`, `gs://…`, or any other of fsspec."""
    upload_seconds: Annotated[float, Field(gt=0)] = 30.0
    """If the run's folder is at a URI: seconds between two updates of the copy there."""

    @model_validator(mode="after")
    def _check_keep_below_samples(self) -> "RunConfig":
        if self.keep is not None and self.keep > self.samples:
            raise ValueError(f"keep is {self.keep}, but samples is only {self.samples}")
        return self
