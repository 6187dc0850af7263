"""The run config: what a user writes in YAML, checked before anything expensive starts."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.config.policies import AdaptersConfig as AdaptersConfig
from cluster.config.policies import EndpointPolicy as EndpointPolicy
from cluster.config.policies import OraclePolicy as OraclePolicy
from cluster.config.policies import Policy, PolicyName, SeatPolicy, find_seat_policy_problems
from cluster.config.policies import VllmPolicy as VllmPolicy
from cluster.config.policies import check_sampling as check_sampling
from cluster.config.trackers import MlflowConfig, WandbConfig
from workers.settings import EnvironmentSettings, SandboxSettings, Settings


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
    policies: dict[PolicyName, SeatPolicy] = Field(default_factory=dict)
    """More policies, by name, for environments of several agents (verifiers' v1 API). If an agent's `model`
    in `environment.args` is such a name, that policy plays it; `policy` plays all other agents. Of kind
    `endpoint`, of kind `vllm` (one more deployment, for this run alone), or of kind `adapter`: `path` is a
    LoRA adapter, which the deployment of `policy` serves beside its own versions. A trainer does not learn
    from what these policies play; `token_ids` and `tokens` have no effect here."""
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

    @model_validator(mode="after")
    def _check_policies(self) -> "RunConfig":
        for problem in find_seat_policy_problems(self.policy, self.policies):
            raise ValueError(problem)
        return self
