"""The components of a run that outlive its episodes. What is cheap and may be wrong is started first."""

import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.config import RunConfig, VllmPolicy
from cluster.errors import ConfigError
from cluster.observe.progress import Progress
from cluster.observe.spans import Spans
from cluster.observe.trackers import Trackers
from cluster.plan.apart import EnvironmentApart
from cluster.plan.plan import Plan, load_plan
from cluster.policy import PolicyClient, check_policy, open_policy, required_cpus
from cluster.policy.models.models import check_template_shows_tools
from cluster.policy.named import NamedPolicies, check_deployments_fit, check_named_policies
from cluster.policy.sampling import check_environment_sampling, check_sampling_keys
from cluster.pool.images import ensure_image, read_image_id, resolve_image_tag, with_image
from cluster.pool.packages import lock_packages
from cluster.pool.ray_worker import make_worker_requester, worker_resources
from cluster.pool.worker_pool import WorkerPool
from cluster.ray_session.session import RaySession, connect, is_local
from workers.environments.base import TaskEnvironment
from workers.environments.modules import library_modules
from workers.errors import EnvironmentLoadError
from workers.handed_on import select_worker_variables
from workers.lanes.fork_server import serve_forks
from workers.settings import PackageLock, PolicyEndpoint, SandboxSettings, Split, WorkerSettings


@dataclass(frozen=True)
class RunComponents:
    """The running components of a run: its plan, policy and workers."""

    plan: Plan
    """The episodes to play."""
    plan_of: Callable[[Split], Plan]
    """Returns the plan of either split of the environment."""
    policy: PolicyClient
    """The client of the policy, which is ready for requests."""
    pool: WorkerPool
    """The worker pool that plays the episodes. It is not started yet."""
    model: str
    """The model name of the policy."""
    spans: Spans | None
    """The exporter of OpenTelemetry spans; None if the run sends none."""
    environment_sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    """The environment's own sampling arguments."""
    image_id: str | None = None
    """Docker's id of the image that the config names, where this machine runs it."""
    trackers: Trackers | None = None
    """The services that the run's figures are sent to; None if there is none."""
    packages: PackageLock | None = None
    """The environment's own packages, where it has some."""


@dataclass(frozen=True)
class SharedParts:
    """What one run has left for the next."""

    fork_server: str | None
    session: RaySession
    policy: PolicyClient
    named: NamedPolicies


class SharedPolicy(ExitStack):
    """A Ray session and a policy that several runs of one process use, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._settings: object = None
        self._parts: SharedParts | None = None

    def find(self, config: RunConfig) -> SharedParts | None:
        """What there is for a run, which closes what it cannot use: another policy, cluster or workers."""
        settings = (config.policy, config.policies, config.ray, config.workers)
        if settings != self._settings:
            self.close()
            self._parts = None
        self._settings = settings
        return self._parts

    def keep(self, parts: SharedParts) -> None:
        """Keeps what is open for the next run."""
        self._parts = parts


def _accept_any_plan(_: Plan) -> None:
    """Accepts every plan: a new run has no earlier tasks to compare with."""


@contextmanager
def start_components(
    config: RunConfig,
    run_id: str,
    progress: Progress,
    shuffled_by: str | None = None,
    check: Callable[[Plan], None] = _accept_any_plan,
    check_image: Callable[[str, str | None], None] = lambda tag, found: None,
    shared: SharedPolicy | None = None,
    packages: PackageLock | None = None,
    forks: bool = False,
) -> Generator[RunComponents]:
    """Loads the environment, gets the image, connects to Ray, starts the policy and makes the worker pool.

    On leaving, all of these are closed but the worker pool, which the caller closes.

    Args:
        config: The config of the run.
        run_id: The id of the run.
        progress: The live display.
        shuffled_by: See `Plan`.
        check: Raises if the plan is not the plan of the run, before anything expensive is started.
        check_image: Raises if the image that the config names has another id than when the run began.
        shared: Keeps Ray and the policy for the next run. None: they end with this one.
        packages: The environment's own packages, which the run began with. None: they are resolved here.
        forks: Whether this process may be forked, so that local workers need not import what it has imported.

    Raises:
        ClusterError: One of the components cannot be started.
    """
    named_image_id: str | None = None
    with ExitStack() as stack:
        before = shared.find(config) if shared is not None else None
        outer = stack if shared is None else shared
        forks = forks and is_local(config.ray)
        own_forks = before.fork_server if before else None
        if before is None and forks and config.environment.requirements is None:
            modules = ["workers.lanes.process", *library_modules(config.environment, Path.cwd())]
            own_forks = outer.enter_context(serve_forks(modules))  # before any code of the environment runs
        with progress.stage("environment") as stage:
            packages = packages or lock_packages(config.environment)
            with chdir("."):  # an environment may go elsewhere, and the run's folder stays where it is
                environment, plan = load_plan(config, run_id, shuffled_by, packages, forks)
            check(plan)
            if plan.left_out is not None:
                progress.note(plan.left_out)
            stage.outcome = f"{plan.tasks} tasks ({config.environment.split}), {plan.episodes} episodes"
        _check_task_images(config, environment)
        sandbox = config.sandbox
        if environment.toolset is not None and sandbox.backend == "docker":
            image = resolve_image_tag(environment.toolset, sandbox)
            if is_local(config.ray):  # elsewhere, each node sees to its own, and this machine needs none
                with progress.stage("image") as stage:
                    stage.outcome = ensure_image(environment.toolset, sandbox, stage.say)
                if config.sandbox.image is not None:
                    named_image_id = read_image_id(image)
                    check_image(image, named_image_id)
            sandbox = with_image(environment.toolset, sandbox)
        check_policy(config.policy)
        check_named_policies(config.policies)
        check_sampling_keys(config.policy)
        check_environment_sampling(config.policy, environment.sampling_args)
        _check_worker_env(config)

        def check_model_template() -> None:
            if isinstance(config.policy, VllmPolicy) and environment.has_tools:
                check_template_shows_tools(config.policy.model, config.policy.chat_template)

        check_model_template()
        spans = stack.enter_context(Spans(run_id)) if config.observe.spans else None
        trackers = Trackers.of(config, run_id)
        if trackers is not None:
            stack.enter_context(trackers)
        with progress.stage("ray") as stage:
            keep = isinstance(config.policy, VllmPolicy) and config.policy.keep_alive
            policies = [config.policy, *config.policies.values()]
            cpus = sum(map(required_cpus, policies)) + config.workers.max * config.workers.cpus_per_worker
            session = before.session if before else None
            if session is None:
                session = outer.enter_context(connect(config.ray, keep=keep, extra_cpus=cpus))
            stage.outcome = session.address
        if session.local and before is None:
            check_deployments_fit(config)
        with progress.stage("policy") as stage:
            policy = before.policy if before else None
            if policy is None:
                policy = outer.enter_context(open_policy(config.policy, session, stage.say))
            stage.outcome = policy.outcome
        named = before.named if before else None
        if named is None:
            named = outer.enter_context(_open_named_policies(config, session, policy, progress))
        if shared is not None:
            shared.keep(SharedParts(own_forks, session, policy, named))
        check_model_template()  # of a model that the hub had, too
        settings = _worker_settings(config, sandbox, policy.endpoint(), run_id, session.local)
        fork_server = environment.fork_server if isinstance(environment, EnvironmentApart) else own_forks
        more = {"packages": packages, "policies": named.endpoints, "fork_server": fork_server}
        settings = settings.model_copy(update=more)
        uses_sandbox = environment.toolset is not None
        ask = make_worker_requester(settings, config.workers, uses_sandbox)
        replicas = (config.policy.max_replicas or 1) if isinstance(config.policy, VllmPolicy) else 1
        pool = WorkerPool(config.workers, ask, worker_resources(config.workers, uses_sandbox), replicas)

        def plan_of(split: Split) -> Plan:
            if split == config.environment.split:
                return plan
            chosen = config.environment.model_copy(update={"split": split})
            try:
                asked = config.model_copy(update={"environment": chosen})
                return Plan(asked, environment.of_split(split), run_id, shuffled_by)
            except EnvironmentLoadError as error:
                raise ConfigError(str(error)) from error

        model, sampling = settings.policy.model, environment.sampling_args
        yield RunComponents(
            plan, plan_of, policy, pool, model, spans, sampling, named_image_id, trackers, packages
        )


def _open_named_policies(
    config: RunConfig, session: RaySession, policy: PolicyClient, progress: Progress
) -> NamedPolicies:
    if not config.policies:
        return NamedPolicies(config, session, policy, lambda stage: None)
    with progress.stage("policies") as stage:
        named = NamedPolicies(config, session, policy, stage.say)
        stage.outcome = "; ".join(named.outcomes)
    return named


def _check_task_images(config: RunConfig, environment: TaskEnvironment) -> None:
    images = environment.toolset.task_images if environment.toolset is not None else ()
    if images and config.sandbox.backend == "process":
        raise ConfigError(
            f"sandbox.backend: got `process`, which has no images, and a task names the image {images[0]}; "
            "use `docker`, or leave the task out"
        )


def _check_worker_env(config: RunConfig) -> None:
    missing = [name for name in config.workers.env if name not in os.environ]
    if missing:
        raise ConfigError(
            f"workers.env: got {missing[0]!r}, which is not set in this shell; set it, or leave it out"
        )


def _worker_settings(
    config: RunConfig,
    sandbox: SandboxSettings,
    endpoint: PolicyEndpoint,
    run_id: str,
    local: bool,
) -> WorkerSettings:
    return WorkerSettings(
        run_id=run_id,
        environment=config.environment,
        sandbox=sandbox,
        policy=endpoint,
        episodes=config.workers.episodes_per_worker,
        seed=config.seed,
        search_path=Path.cwd(),
        env=select_worker_variables(config.workers.env, all_of_them=local),
        whole_env=local,
        memory_mb=config.workers.memory_mb,
        block_seconds=config.workers.block_seconds,
    )
