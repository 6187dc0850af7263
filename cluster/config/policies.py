"""The sections of a run config that say who acts: `policy`, and `policies` for other agents."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cluster.config.price import TokenPrice
from cluster.errors import ConfigError
from workers.settings import SamplingSettings, Settings


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


class AdapterPolicy(Settings):
    """A LoRA adapter on the deployment of `policy`, under a name of its own; it is never updated."""

    kind: Literal["adapter"]
    """One more LoRA adapter on the deployment of `policy`, which must be of kind `vllm`, with `adapters`."""
    path: str
    """Folder of the adapter, as PEFT writes it, or its URI (`s3://…`, `gs://…`, or any other of fsspec)."""
    sampling: SamplingSettings = Field(default_factory=SamplingSettings)
    """How actions are sampled."""


PolicyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
SeatPolicy = Annotated[EndpointPolicy | AdapterPolicy | VllmPolicy, Field(discriminator="kind")]
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


_UNUSED_BY_SEATS = {
    "keep_alive": "only the deployment of `policy` can be kept",
    "adapters": "its weights are never updated; for one adapter, use kind `adapter`",
    "versions_folder": "its weights are never updated",
    "max_version_lag": "its weights are never updated",
}
"""Keys of a vLLM deployment that a policy of other agents can't have, and why."""


def find_seat_policy_problems(policy: Policy, others: Mapping[str, SeatPolicy]) -> Iterator[str]:
    """What is wrong with the policies of other agents, each with its key and what to do.

    Args:
        policy: The run's own.
        others: The `policies` section.
    """
    adapters = [name for name, other in others.items() if isinstance(other, AdapterPolicy)]
    for name in adapters:
        given = f"policies.{name}.kind: got `adapter`, an adapter on the deployment of `policy`, "
        if not isinstance(policy, VllmPolicy):
            yield f"{given}whose kind is `{policy.kind}`; it must be `vllm`, with `adapters: {{}}`"
        elif policy.adapters is None:
            yield f"{given}which takes none: set policy.adapters, for example to {{}}"
        elif policy.adapters.live <= len(adapters):
            yield (
                f"{given}which holds {policy.adapters.live} at once (policy.adapters.live): set that to "
                f"{len(adapters) + 1} or more, {len(adapters)} for `policies` ({', '.join(adapters)}) and at "
                "least one for the versions of `policy`"
            )
    for name, other in others.items():
        if not isinstance(other, VllmPolicy):
            continue
        for key, why in _UNUSED_BY_SEATS.items():
            given = getattr(other, key)
            if given != VllmPolicy.model_fields[key].default:
                yield f"policies.{name}.{key}: got {str(given)!r}; {why}. Leave it out"
