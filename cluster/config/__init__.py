"""The run config: its models, a config from a file, and which values a config may hold."""

from cluster.config.policies import (
    AdapterPolicy,
    AdaptersConfig,
    EndpointPolicy,
    OraclePolicy,
    Policy,
    SeatPolicy,
    VllmPolicy,
    check_sampling,
)
from cluster.config.run_config import (
    AttemptsConfig,
    EpisodeConfig,
    ObserveConfig,
    RayConfig,
    RunConfig,
    WorkersConfig,
)

__all__ = [
    "AdapterPolicy",
    "AdaptersConfig",
    "AttemptsConfig",
    "EndpointPolicy",
    "EpisodeConfig",
    "ObserveConfig",
    "OraclePolicy",
    "Policy",
    "RayConfig",
    "RunConfig",
    "SeatPolicy",
    "VllmPolicy",
    "WorkersConfig",
    "check_sampling",
]
