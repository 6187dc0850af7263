"""The driver's connection to Ray: which cluster a run uses, and what of it ends with the run."""

import fcntl
import logging
import math
import os
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray._private import ray_constants, worker
from ray._private.authentication import authentication_token_setup

from cluster.config import RayConfig
from cluster.errors import RayUnavailable
from cluster.ray_session import kept as kept_ray
from cluster.ray_session.unused_services import without_unused_services

START_TIMEOUT = 120.0
"""Seconds that a local cluster may take to come up; 2 are usual."""
JOIN_TIMEOUT = 30.0
"""Seconds in which an existing cluster must answer. Ray itself would try for a quarter of an hour."""
NAMESPACE = "kumite"
_OBJECT_STORE = 512 * 2**20
"""Bytes. What travels between driver and workers is small; Ray's default is a third of the memory."""
_SANDBOX_RESOURCE = 1000
"""The `sandbox` resource of a local node: this machine has Docker, and its limits are not Ray's to count."""
_SPARE_CPUS = 16
"""Logical CPUs of a kept cluster beyond what its first run asks for, since later runs may ask for more."""
_ray: Any = ray  # its own types are partial
_LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class RaySession:
    """A connection to Ray; also a context manager that closes it.

    Args:
        address: Of the cluster.
        local: Whether Kumite started the cluster, on this machine.
        kept: Whether it stays up when the session closes, for the next run.
        logs: Folder of Ray's logs, where this machine has it.
        lease: Its claim on a cluster that Kumite keeps on this machine.
        new: Whether that cluster was started for it.
    """

    def __init__(
        self,
        address: str,
        *,
        local: bool,
        kept: bool,
        logs: Path,
        lease: kept_ray.Lease | None = None,
        new: bool = False,
    ) -> None:
        self.address = address
        self.local = local
        self.kept = kept
        self.logs = logs
        self._lease = lease
        self._unsettled = new

    def settle(self) -> None:
        """Says that there is now something to keep the cluster for; until then, it ends with the session."""
        self._unsettled = False

    @property
    def owner(self) -> int:
        """The process of this machine that a local cluster ends with."""
        kept = kept_ray.find_kept() if self.kept else None
        return os.getpid() if kept is None else kept.pid

    def is_only_one(self) -> bool:
        """Whether no other run is connected to the same kept cluster of this machine."""
        return self._lease is None or self._lease.is_only_one()

    def close(self) -> None:
        """Leaves the cluster, and ends it if it is this run's own. Safe to call twice."""
        if _ray.is_initialized():
            _ray.shutdown()
        if self.local:
            _bind_to_loopback(False)
        if self._unsettled and self.is_only_one():
            kept_ray.stop_kept()
        self._unsettled = False
        if self._lease is not None:
            self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(config: RayConfig, *, keep: bool = False, extra_cpus: float = 0.0) -> RaySession:
    """Connects this process to Ray, to the cluster that `RayConfig.address` describes.

    Args:
        config: The run's `ray` section.
        keep: Whether a local cluster that has to be started outlives this driver.
        extra_cpus: Logical CPUs that the run's policy and workers will ask for.

    Raises:
        RayUnavailable: There is no such cluster, it does not let us in, or a local one did not come up.
    """
    kept = kept_ray.find_kept()
    if config.address is not None and (kept is None or config.address != kept.address):
        return _join_cluster(config.address, "ray.address", {"py_modules": _package_folders()})
    if config.address is None and os.environ.get("RAY_ADDRESS"):
        submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        return _join_cluster(
            os.environ["RAY_ADDRESS"],
            "RAY_ADDRESS",
            None if submitted else {"py_modules": _package_folders()},
        )
    if config.num_cpus is not None and config.num_cpus < extra_cpus:
        raise RayUnavailable(
            f"ray.num_cpus is {config.num_cpus}, and this run's policy and workers ask for {extra_cpus:g}: "
            "raise it (they are not cores), or leave it out"
        )
    cores = os.cpu_count() or 1
    options: dict[str, object] = {"num_cpus": config.num_cpus or cores + math.ceil(extra_cpus)}
    started = False
    with _start_lock():
        kept = kept_ray.find_kept()
        if kept is not None and not _is_listening(kept):
            kept_ray.stop_kept()
            kept = None
        if kept is None and keep:
            if config.num_cpus is None:
                options["num_cpus"] = cores + math.ceil(extra_cpus) + _SPARE_CPUS
            kept = kept_ray.start_kept(options, START_TIMEOUT)
            started = True
    if kept is None:
        return start_local(options)
    return _join_kept(kept, extra_cpus, started)


def is_local(config: RayConfig) -> bool:
    """Whether a run's workers will be on this machine alone: nothing names a cluster."""
    return config.address is None and not os.environ.get("RAY_ADDRESS")


def start_local(options: dict[str, object]) -> RaySession:
    """Starts a cluster on this machine's loopback interface; it ends with this process.

    Args:
        options: Keyword arguments of `ray.init`, beyond those that every local cluster has.

    Raises:
        RayUnavailable: It did not come up.
    """
    _bind_to_loopback()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with without_unused_services():
            _init_ray(
                address="local",
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
                resources={"sandbox": _SANDBOX_RESOURCE},
                runtime_env=_worker_runtime_env(),
                # Two workers that nobody asked for cost seconds of CPU while the policy is starting.
                _system_config={"prestart_worker_first_driver": False},
                **options,
            )
    except Exception as error:  # Ray raises that very class where its node takes longer than it waits, 30 s
        raise RayUnavailable(f"a local Ray cluster did not start: {_last_line(str(error))}") from error
    return _open_session(local=True, kept=False)


def _join_cluster(address: str, named_by: str, runtime_env: dict[str, Any] | None) -> RaySession:
    """Joins a cluster that someone else runs."""
    if address == "local":
        raise RayUnavailable(f"{named_by} is 'local': leave it out for a local cluster of this run's own")
    if address.startswith("ray://"):
        raise RayUnavailable(
            f"{named_by} is {address!r}: a run does not work through Ray's client; submit it to the cluster "
            "instead, with `ray job submit --working-dir . -- kumite run …`"
        )
    if address == "auto":
        _use_token()
    _check_cluster(address, named_by)
    try:
        _init_ray(address=address, runtime_env=runtime_env)
    except (OSError, RuntimeError, ValueError, TimeoutError) as error:
        raise RayUnavailable(f"{named_by} is {address!r}: {_last_line(str(error))}") from error
    return _open_session(local=False, kept=True)


def _join_kept(kept: kept_ray.KeptCluster, extra_cpus: float, new: bool) -> RaySession:
    session = RaySession(kept.address, local=True, kept=True, logs=kept.logs, lease=kept_ray.Lease(), new=new)
    try:
        _bind_to_loopback()
        _use_token()
        _init_ray(address=kept.address, runtime_env=_worker_runtime_env())
        cpus: float = _ray.cluster_resources().get("CPU", 0.0)
        if cpus < extra_cpus:
            raise RayUnavailable(
                f"the local Ray cluster kept at {kept.address} has {cpus:g} logical CPUs, and this run asks "
                f"for {extra_cpus:g}: lower workers.max, or end the kept one with `kumite policy down`"
            )
    except (OSError, RuntimeError, ValueError, TimeoutError) as error:
        session.close()
        raise RayUnavailable(
            f"the local Ray cluster kept at {kept.address} cannot be joined: {_last_line(str(error))}; "
            "`kumite policy down` ends it"
        ) from error
    except BaseException:
        session.close()
        raise
    return session


def _init_ray(**options: Any) -> None:
    _ray.init(namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options)


def _open_session(*, local: bool, kept: bool) -> RaySession:
    driver: Any = worker.global_worker
    address = _ray.get_runtime_context().gcs_address
    return RaySession(address, local=local, kept=kept, logs=Path(driver.node.get_logs_dir_path()))


def _check_cluster(address: str, named_by: str) -> None:
    """Sees whether a cluster answers and lets us in, in a process that can be given up.

    Raises:
        RayUnavailable: It does not.
    """
    given = f"{named_by} is {address!r}"
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not (host and port.isdecimal()):
            raise RayUnavailable(f"{given}: it should be `auto`, or host:port as `ray start` prints it")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
        except OSError as error:
            raise RayUnavailable(f"{given}, and nothing answers there: {error}") from error
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(
            command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=JOIN_TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise RayUnavailable(f"{given}: it does not answer as Ray within {JOIN_TIMEOUT:.0f} s") from error
    if done.returncode == 0:
        return
    if "AuthenticationError" in done.stderr:
        raise RayUnavailable(
            f"{given}: the cluster asks for its token, and got a wrong one or none; set RAY_AUTH_MODE=token, "
            "and have the token in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH names, or in "
            "~/.ray/auth_token"
        )
    raise RayUnavailable(f"{given}: {_last_line(done.stderr)}")


def _is_listening(kept: kept_ray.KeptCluster) -> bool:
    """Whether something listens at a kept cluster's address: its holder may have outlived it."""
    host, _, port = kept.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError:
        return False
    return True


def _use_token() -> None:
    """Lets Ray present the user's token, as it does by itself for a cluster it has found by itself."""
    # That authentication is on is as it should be, and no warning for our users' terminals.
    logging.getLogger(authentication_token_setup.__name__).setLevel(logging.ERROR)
    authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _bind_to_loopback(stay: bool = True) -> None:
    """Keeps a local cluster's ports off the network: Ray on Linux listens on every interface.

    Ray calls the loopback address its own only where it takes a cluster of several nodes for impossible,
    and decides that once, when it is imported.
    """
    if stay:
        os.environ[_LOOPBACK_VARIABLE] = "0"
    else:
        os.environ.pop(_LOOPBACK_VARIABLE, None)
    ray_constants.ENABLE_RAY_CLUSTER = not stay  # pyright: ignore[reportPrivateImportUsage]


def _worker_runtime_env() -> dict[str, Any]:
    """A runtime environment in which workers on this machine import this very code."""
    root = Path(__file__).parents[2]
    if str(root) == sysconfig.get_path("purelib"):
        return {}
    path = [str(root), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(dict.fromkeys(part for part in path if part))}}


def _package_folders() -> list[str]:
    """Our packages, for a cluster whose nodes may not have them: Ray uploads these, not the whole tree."""
    root = Path(__file__).parents[2]
    return [str(root / package) for package in ("cluster", "workers", "sandbox_images")]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "Ray did not say why"


@contextmanager
def _start_lock() -> Generator[None]:
    """Two drivers at once must not both start the cluster to keep."""
    kept_ray.record_folder().mkdir(parents=True, exist_ok=True)
    with (kept_ray.record_folder() / "starting.lock").open("wb") as lock:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise RayUnavailable(
                        f"another run has been starting a local Ray cluster for {START_TIMEOUT:.0f} s"
                    ) from error
                time.sleep(0.2)
        yield
