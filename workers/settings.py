"""The settings a rollout worker is started with, as a user writes them in a run's config file."""

import ipaddress
import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

Split: TypeAlias = Literal["train", "eval"]
"""Which of an environment's two datasets: verifiers' `dataset` or `eval_dataset`."""


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, and the docstring under a field documents it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class EnvironmentSettings(Settings):
    id: str
    """The environment: `agentdojo`, `shell`, any importable module with a verifiers `load_environment(...)`
    or a taskset of its v1 API, or the path of a Python file that has one (relative to the config file)."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the environment's `load_environment`; their values must be possible in JSON (write
    a date as text). For a v1 taskset: verifiers' block `[env]`
    ([environments.md](environments.md#verifiers-two-apis)). For the built-in environments see
    [agentdojo.md](agentdojo.md), [shell.md](shell.md)."""
    split: Split = "eval"
    """Which of its tasks to play. `train`: verifiers' `dataset`, to train on. `eval`: verifiers'
    `eval_dataset`, to evaluate on, or `dataset` if that is the only one. `agentdojo` and `shell` have only
    `eval`."""
    requirements: list[str] | str | None = None
    """Packages of the environment's own, apart from Kumite's: a list of requirements (`verifiers==0.4.0`), or
    the path of a requirements file. A folder with a `pyproject.toml` is a requirement, too. Paths begin with
    `.` or `/` and are relative to the config file. They are installed once per node, by uv, in the cache
    folder, and the environment's code alone runs with them. Null: those that Kumite is installed with
    ([environments.md](environments.md#packages-of-its-own))."""
    wheels: Path | None = None
    """Folder of wheels on every node from which `requirements` are installed, without any network. Relative
    to the config file. Null: from the index that uv is configured with."""
    folder: Path | None = None
    """Folder of your own modules, in addition to the installed ones; relative to the config file. Null: the
    config file's folder."""

    @property
    def name(self) -> str:
        """What records call it: its id, without the folder where it is a file."""
        return Path(self.id).stem if self.id.endswith(".py") else self.id

    @property
    def scope(self) -> str:
        """Within what a task's id is unique: the two splits number their tasks alike."""
        return self.name if self.split == "eval" else f"{self.name}/{self.split}"


class PackageLock(Settings):
    """What `environment.requirements` have come to: the versions to install, and wheels of folders."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    requirements: str
    """Every package with its version and hashes, as a requirements file."""
    built: dict[str, bytes] = Field(default_factory=dict[str, bytes])
    """Wheels that were built of folders, by their file names."""
    wheels: Path | None = None
    """`environment.wheels`."""


class SessionLimits(Settings):
    """Resource limits of one episode's process inside the container (`setrlimit`)."""

    address_space_mb: int | None = Field(default=None, gt=0)
    """Most virtual memory of one process of the session, in MiB. Null: only the container has a limit."""
    cpu_seconds: int | None = Field(default=600, gt=0)
    """Most CPU time of one process of the session, in seconds."""
    open_files: int = Field(default=256, ge=16)
    """Most open descriptors of one process of the session."""
    file_size_mb: int = Field(default=64, gt=0)
    """Largest file the session may write, in MiB."""


_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(\.(?!-)[a-z0-9-]{1,63})*", re.IGNORECASE)


def _problem_of_host(entry: str) -> str | None:
    """What is wrong with an entry of `sandbox.allow`, and what would be right."""
    if "/" in entry or "@" in entry:
        url = urlsplit(entry if "//" in entry else f"//{entry}")
        port = {"http": 80}.get(url.scheme, 443)
        with suppress(ValueError):
            port = url.port or port
        return f"is a URL; give a host and its port, '{url.hostname or 'example.org'}:{port}'"
    host, _, port = entry.rpartition(":")
    if not host or not port:
        return f"has no port; give one, '{entry.strip(':') or 'example.org'}:443'"
    with suppress(ValueError):
        ipaddress.ip_address(host.strip("[]"))
        return "is an address; give a host's name, 'example.org:443': where it leads is looked up and checked"
    if "*" in host:
        return "is a pattern; give each host by its whole name, 'example.org:443'"
    if not re.fullmatch(r"[1-9][0-9]{0,4}", port) or int(port) > 65535:
        return f"has no port from 1 to 65535; give one, '{host}:443'"
    if not _HOST.fullmatch(host) or re.fullmatch(r"[0-9]+|0x[0-9a-f]*", host.rpartition(".")[2].lower()):
        return "is no host's name; give one, 'example.org:443'"
    return None


class SandboxSettings(Settings):
    backend: Literal["docker", "process"] = "docker"
    """`docker`: tools run in containers. `process`: the tool host runs as a child process, without any
    isolation, for debugging on a machine without Docker."""
    image: str | None = None
    """The image to run: any Linux image of the node's architecture, with or without Python, a C library or a
    shell. Null: the environment's own image, as `kumite images build` tags it."""
    tool_host: str | None = None
    """The engine's volume with the tool host, for an image without one. Null: the volume that `kumite images
    build bundle` makes; if it is missing, the run makes it."""
    user: Literal["root"] | None = None
    """`root`: sessions are root of their container, as images made for agents often expect. They have full
    power over its files, processes and users, but no more than that: no network, no new privileges, the same
    profile of system calls, and no capability that reaches out of the container. It needs a container for
    each episode. Null: an ordinary user. Details: [security.md](security.md#root-in-its-container)."""
    root_mb: int | None = Field(default=None, ge=16)
    """Makes the root file system writable, up to this size in MiB. If the engine's storage driver can't limit
    its size (overlay2 can on XFS with project quotas), the root stays read-only; then /tmp, /var/tmp, /run,
    /root and /home are writable folders in memory, empty at first, each with a fifth of this size. Null:
    read-only."""
    allow: list[str] = Field(default_factory=list)
    """Hosts that programs in a sandbox may reach, each as `host:port`: `pypi.org:443`. Programs must use the
    proxy in `HTTP_PROXY` and `HTTPS_PROXY`. The worker makes the connection, if the name leads to a public
    address. Each connection is recorded in the episode. Empty: none."""
    allow_mb: int = Field(default=256, gt=0)
    """Most data, in MiB, that one episode's connections to `allow` may carry, both directions together."""
    runtime: str | None = None
    """The OCI runtime, as the engine knows it: `runc`, `runsc` (gVisor), … Null: the engine's default."""
    recycle: Literal["fork", "episode"] | None = None
    """`fork`: one container per worker, one forked process per episode. `episode`: a new container for each
    episode, made ahead. Null: what the environment's toolset asks for."""
    unsafe: bool = False
    """Allow less isolation than the toolset asks for: `recycle: fork` if it asks for `episode`, or
    `backend: process` for tools that run the model's code. The run records it."""
    max_episodes_per_container: int | None = Field(default=None, gt=0)
    """Replace a container after it has served this many episodes. Null: never."""
    max_sessions: int | None = Field(default=None, gt=0)
    """Most running episodes in one container with `recycle: fork`; further ones wait for a place. Null: the
    smaller of (`memory_mb` − `scratch_mb` − 64) / 16 and `pids` / 2."""
    session_users: bool | None = None
    """Give each episode in a container a user id of its own, so that none can kill another or read its files.
    Code written by the model runs as a further user, which can't kill the episode's process. To switch users,
    the process that manages the sessions (the tool host) runs as root inside the container with CHOWN, KILL,
    SETGID and SETUID only. The episodes themselves have no capabilities. Null: on if the environment asks for
    it (`shell` does), or with the runtime `runsc`, which does not protect the tool host from processes of its
    own user."""
    seccomp: str | None = None
    """The system calls that a container may make. Null: Kumite's own profile, `workers/sandbox/seccomp.json`,
    the same on every engine. `engine`: the engine's default. `unconfined`: all of them. A path: a profile in
    Docker's format, which must be on every node. What is refused: [security.md](security.md#system-calls)."""
    memory_mb: int = Field(default=2048, ge=64)
    """Memory of one container, in MiB; swap is off."""
    cpus: float = Field(default=2.0, gt=0)
    """CPUs that one container may use."""
    pids: int = Field(default=512, ge=16)
    """Most processes and threads in one container."""
    scratch_mb: int = Field(default=256, ge=1)
    """Size of the container's only writable folder, a tmpfs at /scratch, in MiB, with at most 256 files and
    folders per MiB. It counts as memory."""
    session_limits: SessionLimits = Field(default_factory=SessionLimits)
    """Resource limits of one episode's process inside the container."""
    start_timeout: float = Field(default=120.0, gt=0)
    """Seconds that a container may take to start and load its toolset."""
    setup_timeout: float = Field(default=60.0, gt=0)
    """Seconds that the set-up of one episode's tool resources may take."""
    call_timeout: float = Field(default=60.0, gt=0)
    """Seconds that one tool call may take; scoring has the same limit."""

    @field_validator("allow")
    @classmethod
    def _hosts_have_names(cls, allow: list[str]) -> list[str]:
        for entry in allow:
            if problem := _problem_of_host(entry):
                raise ValueError(f"sandbox.allow: {entry!r} {problem}")
        return allow

    @model_validator(mode="after")
    def _root_has_its_container(self) -> "SandboxSettings":
        if self.user == "root":
            if self.backend == "process":
                raise ValueError("sandbox.user `root` needs sandbox.backend `docker`, got `process`")
            if self.runtime == "runsc" and not self.unsafe:
                raise ValueError(
                    "sandbox.user `root` with sandbox.runtime `runsc`: gVisor lets root open the tool host's "
                    "pipe, so an episode could make its scores up; leave one out, or set sandbox.unsafe"
                )
            if self.session_users:
                raise ValueError(
                    "sandbox.user `root` and sandbox.session_users can't be set together; leave one out"
                )
            if self.recycle == "fork":
                raise ValueError(
                    "sandbox.user `root` needs a container for each episode: sandbox.recycle `episode`, got "
                    "`fork`"
                )
        return self

    @model_validator(mode="after")
    def _users_need_a_container(self) -> "SandboxSettings":
        if self.session_users and self.backend == "process":
            raise ValueError("sandbox.session_users needs sandbox.backend `docker`, got `process`")
        return self


class SamplingSettings(Settings):
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; replaces one that the environment sets."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling: the probability mass to sample from. Null: all, or an endpoint's own default."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Most tokens sampled in one turn. Null: the environment's own limit, else 512."""
    tool_choice: Literal["auto", "required", "none"] | None = None
    """OpenAI's `tool_choice`. Null: the policy's default, which is `auto` if there are tools."""
    stop: list[str] | None = None
    """Strings that end a turn."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Other arguments of the policy's chat completions, sent unchanged."""


class PolicyEndpoint(Settings):
    """Where and how a worker reaches the policy: what the cluster side hands to every worker."""

    kind: Literal["openai", "oracle"]
    """`openai`: an OpenAI-compatible route. `oracle`: the task's own ground truth, no model."""
    model: str
    """Name of the model in requests and in the records."""
    base_url: str | None = None
    """Root of the OpenAI-compatible API, for example `http://127.0.0.1:8000/v1`."""
    api_key: SecretStr | None = None
    """The API's key: handed to workers, and in no record."""
    version: int | None = None
    """Version of the policy's weights, where it is known."""
    moves: bool = False
    """Whether episodes in flight move to a new version with their next turn, or finish on theirs."""
    max_version_lag: int | None = None
    """Most versions that the policy may be ahead of an episode's first turn. Null: any number."""
    token_ids: bool = False
    """Ask for token ids and log-probabilities with every request (vLLM gives them)."""
    tokens: Literal["per_turn", "exact"] = "per_turn"
    """`exact`: token ids in, token ids out; a turn goes on from the last one verbatim."""
    tokenizer: str | None = None
    """With `exact`: the model's folder, or its id on the Hugging Face hub. Null: `model`."""
    chat_template: Path | None = None
    """With `exact`: a template in place of the model's own."""
    renderer: str | None = None
    """With `exact`: a renderer of the renderers package. Null: by the model's name, or its template."""
    tool_parser: str | None = "hermes"
    """With `exact`, where no renderer of the package reads the answers: vLLM's parser of tool calls."""
    reasoning_parser: str | None = None
    """The same: vLLM's parser of reasoning."""
    template_options: dict[str, Any] = Field(default_factory=dict)
    """With `exact`: what the chat template is told besides where a request does not say otherwise."""
    paced: bool = False
    """Whether the number of requests adapts to what the server takes: others may use it, too."""
    request_timeout: float = 600.0
    """Seconds that one request may take."""
    sampling: SamplingSettings = Field(default_factory=SamplingSettings)
    """How actions are sampled."""


class WorkerSettings(Settings):
    """All that one rollout worker needs to know."""

    run_id: str
    """Names the run in container labels and records."""
    environment: EnvironmentSettings
    """The environment to roll out."""
    packages: PackageLock | None = None
    """The environment's own packages. Null: it shares those of the worker."""
    sandbox: SandboxSettings
    """The sandbox the worker owns."""
    policy: PolicyEndpoint
    """The policy that acts."""
    policies: dict[str, PolicyEndpoint] = Field(default_factory=dict[str, PolicyEndpoint])
    """Those that play other agents, by name."""
    episodes: Annotated[int, Field(gt=0)] = 16
    """Episodes the worker runs at once."""
    seed: int | None = None
    """Seeds each request's sampling, per episode. Null: unseeded."""
    search_path: Path | None = None
    """The driver's working folder: where a user's own environment module is looked for, and what the
    worker's own working folder is a copy of on another node."""
    memory_mb: int | None = None
    """Memory of one of its processes above which it is replaced between episodes, in MiB. Null: any."""
    block_seconds: float = 3.0
    """Seconds for which an episode's code may hold up the others of its process before they are moved."""
    env: dict[str, SecretStr] = Field(default_factory=dict[str, SecretStr])
    """Environment variables for the processes that run the environment's code: in no file and no log."""
    whole_env: bool = False
    """Whether `env` stands in place of what the worker's own process was started with."""
    fork_server: str | None = None
    """Address of the process on the driver's machine that forks those which run the environment's code. Null:
    there is none, and they are started."""
