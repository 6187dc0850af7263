"""The rollout worker as the cluster starts it: on a node that may lack the sandbox image."""

from cluster.errors import RunError
from cluster.pool.images import ensure_image
from workers.lanes.worker import LanedWorker


class NodeRolloutWorker(LanedWorker):
    """A `LanedWorker` that has its node get or build the sandbox image before it comes up.

    Of several workers of a node, one does, and the others wait for it.
    """

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
