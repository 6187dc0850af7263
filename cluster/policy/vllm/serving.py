"""Ray Serve as the driver sees it: its HTTP address, and an application on its way to ready."""

import logging
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.context import _get_global_client  # pyright: ignore[reportPrivateUsage]
from ray.serve.exceptions import RayServeException

from cluster.errors import PolicyUnavailable
from cluster.policy.base import OnStage
from cluster.policy.vllm.failure import engine_error, last_error
from cluster.ray_session import engine_folders
from cluster.ray_session.session import RaySession

_POLL_INTERVAL = 0.25
"""Seconds between two looks at the application's status; one costs a millisecond."""
_SHARED_PORT = 8000
"""Ray Serve's own default, for clusters of several nodes."""
_serve: Any = serve
_ray: Any = ray


def start_serve(session: RaySession) -> str:
    """Starts Ray Serve, unless it runs already.

    Returns:
        The URL of its HTTP proxy, as workers reach it.
    """
    _quiet_logs()
    if session.local:
        options = {"host": "127.0.0.1", "port": _free_port()}
        _serve.start(proxy_location="HeadOnly", http_options=options)
    else:
        options = {"host": "0.0.0.0", "port": _SHARED_PORT}
        _serve.start(proxy_location="EveryNode", http_options=options)
    client = _connect_controller()
    host = "127.0.0.1" if session.local else _head_address()
    return f"http://{host}:{client.http_config.port}"


def list_applications(prefix: str) -> list[str]:
    """Names of the applications that begin so."""
    client = _connect_controller()
    names = [] if client is None else [overview.name for overview in client.list_serve_statuses()]
    return [name for name in names if name.startswith(prefix)]


def is_running(name: str) -> bool:
    """Whether the application is there and healthy."""
    status = _read_status(name)
    return status is not None and status.app_status.status.value == "RUNNING"


def delete_application(name: str, wait: bool = True) -> None:
    """Ends an application.

    Args:
        name: The application's.
        wait: Return when its processes are gone; one that is still starting up takes its time.
    """
    _quiet_logs()
    # With the controller gone, so is the application.
    with suppress(RayServeException, RayError, TimeoutError):
        _serve.delete(name, _blocking=wait)
    engine_folders.remove_folder(name)


def wait_for_application(
    name: str, deployment: Any, session: RaySession, timeout: float, on_stage: OnStage
) -> None:
    """Waits until an application is ready.

    Args:
        name: The application's.
        deployment: Ref of the task that deploys it.
        session: Of the cluster.
        timeout: Seconds it may take.
        on_stage: Told what it is waiting for.

    Raises:
        PolicyUnavailable: It failed, or took too long; says why.
    """
    began, said, status = time.monotonic(), "", None
    while True:
        if deployment is not None and _ray.wait([deployment], timeout=0)[0]:
            _find_deployment(deployment)
            deployment = None
        if deployment is None:
            status = _read_status(name)
            _raise_if_failed(name, status, session.logs)
            if status is not None and status.app_status.status.value == "RUNNING":
                return
        stage = _describe_stage(status, deployment is not None)
        if stage != said:
            said = stage
            on_stage(stage)
        if time.monotonic() - began > timeout:
            raise PolicyUnavailable(
                f"the vLLM policy was not ready within policy.start_timeout, {timeout:.0f} s; last seen: "
                f"{said}{_find_complaints(status)}; Ray's logs are in {session.logs}"
            )
        time.sleep(_POLL_INTERVAL)


def _describe_stage(status: Any, building: bool) -> str:
    if building or status is None:
        return "describing the deployment to Ray Serve"
    waiting = [
        f"{deployment.name.partition(':')[0]} {deployment.status.value.lower()}"
        for deployment in status.deployment_statuses
        if deployment.status.value != "HEALTHY"
    ]
    return f"starting vLLM: waiting for {', '.join(waiting) or 'Ray Serve'}"


def _find_complaints(status: Any) -> str:
    if status is None:
        return ""
    parts = [status.app_status, *status.deployment_statuses]
    messages = [part.message for part in parts]
    told = " ".join(dict.fromkeys(message.strip() for message in messages if message.strip()))
    return f" ({told})" if told else ""


def _find_deployment(deployment: Any) -> None:
    try:
        _ray.get(deployment)
    except RayTaskError as error:
        cause: Any = error.cause
        raise PolicyUnavailable(f"the vLLM policy cannot be deployed: {last_error(str(cause))}") from error
    except RayError as error:
        reason = last_error(str(error))
        raise PolicyUnavailable(f"the vLLM policy cannot be deployed: {reason}") from error


def _raise_if_failed(name: str, status: Any, logs: Path) -> None:
    """Raises at the first replica that fails: Ray Serve would try three more times, minutes each."""
    if status is None:
        return
    failed = status.app_status.status.value == "DEPLOY_FAILED"
    for part in status.deployment_statuses:
        if "failed to start" in part.message or (failed and part.message):
            reason = engine_error(logs, name) or last_error(part.message)
            raise PolicyUnavailable(f"the vLLM policy does not start: {reason}; Ray's logs are in {logs}")
    if failed:
        raise PolicyUnavailable(f"the vLLM policy does not start: {last_error(status.app_status.message)}")


def _connect_controller() -> Any:
    """The driver's way to Ray Serve's controller; None if there is no controller.

    `serve.status()` would do, but to name a deployment's router it imports vLLM: 10 s and 500 MB.
    """
    return _get_global_client(raise_if_no_controller_running=False)


def _read_status(name: str) -> Any:
    client = _connect_controller()
    overview = None if client is None else client.get_serve_status(name)
    return None if overview is None or overview.app_status.status.value == "NOT_STARTED" else overview


def _head_address() -> str:
    nodes: list[dict[str, Any]] = _ray.nodes()
    heads = [node for node in nodes if "node:__internal_head__" in node["Resources"]]
    return str((heads or nodes)[0]["NodeManagerAddress"])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _quiet_logs() -> None:
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
