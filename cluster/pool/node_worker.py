"""The rollout worker as the cluster starts it: on a node that may lack the sandbox image."""

from cluster.errors import RunError
from cluster.pool.images import ensure_image
from cluster.pool.pythons import ensure_python
from workers.lanes.worker import LanedWorker
from workers.settings import WorkerSettings


class NodeRolloutWorker(LanedWorker):
    """A `LanedWorker` that has its node get or build the sandbox image before it comes up.

    So it has the node install the environment's own packages, where it has some. Of several workers of a
    node, one does, and the others wait for it.

    Args:
        settings: What to play and how.
        worker_id: Names the worker in records and container labels.

    Raises:
        EnvironmentLoadError: The environment does not load.
        RunError: Its own packages cannot be installed on this node.
    """

    def __init__(self, settings: WorkerSettings, worker_id: str) -> None:
        packages = settings.packages
        super().__init__(settings, worker_id, ensure_python(packages) if packages is not None else None)

    def ready(self) -> None:
        """Sees to the image, and brings up the sandbox.

        Raises:
            RunError: The node has no image, or no engine at all; names the node.
            SandboxStartError: The sandbox does not come up.
        """
        sandbox = self.settings.sandbox
        if self.toolset is not None and sandbox.backend == "docker":
            try:
                ensure_image(self.toolset, sandbox, pull=True)
            except RunError as error:
                raise RunError(f"on node {self.node_id}: {error}") from error
        super().ready()
