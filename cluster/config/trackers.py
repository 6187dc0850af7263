"""Where a run's figures are sent besides its own files."""

from pydantic import Field

from workers.settings import Settings


class WandbConfig(Settings):
    """Weights & Biases; its own variables (`WANDB_API_KEY`, `WANDB_MODE`, …) say who and where."""

    project: str = Field(default="kumite", min_length=1)
    """The project."""
    entity: str | None = None
    """The team or user. Null: the default of the key."""


class MlflowConfig(Settings):
    """MLflow; its own variables (`MLFLOW_TRACKING_TOKEN`, …) say who."""

    experiment: str = Field(default="kumite", min_length=1)
    """The experiment; it is made if there is none of this name."""
    tracking_uri: str | None = None
    """The server, or a database such as `sqlite:///mlflow.db`. Null: `MLFLOW_TRACKING_URI`."""
