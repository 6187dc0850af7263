"""The run config: its models, a config from a file, and which values a config may hold."""

from cluster.config.run_config import (
    AdaptersConfig,
    AttemptsConfig,
    EndpointPolicy,
    EpisodeConfig,
    ObserveConfig,
    OraclePolicy,
    Policy,
    RayConfig,
    RunConfig,
    VllmPolicy,
    WorkersConfig,
    check_sampling,
)

__all__ = [
    "AdaptersConfig",
    "AttemptsConfig",
    "EndpointPolicy",
    "EpisodeConfig",
    "ObserveConfig",
    "OraclePolicy",
    "Policy",
    "RayConfig",
    "RunConfig",
    "VllmPolicy",
    "WorkersConfig",
    "check_sampling",
]
