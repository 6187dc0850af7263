"""What can keep a run from starting: each message names the part, what was given and what would be right."""


class ClusterError(Exception):
    """Base of what the cluster side raises for a user to read."""


class ConfigError(ClusterError):
    """The config is not what it should be."""


class RunError(ClusterError):
    """The run as a whole cannot be done."""


class RunStopped(RunError):
    """A run has stopped by itself, since episode after episode failed with the same cause."""


class RayUnavailable(ClusterError):
    """The Ray cluster cannot be reached, joined or started."""


class PolicyUnavailable(ClusterError):
    """The policy cannot be reached or does not come up."""


class PolicyInUse(ClusterError):
    """The kept policy is to be ended or replaced while a run uses it."""


class ModelUnavailable(PolicyUnavailable):
    """The model's files are not there and cannot be had."""


class UpdateRefused(ClusterError):
    """New weights that the policy does not take; the version before keeps serving."""
