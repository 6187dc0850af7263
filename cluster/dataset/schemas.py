"""Arrow schemas of the dataset's tables, derived from the records' models."""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from cluster.dataset.arrow import DataType, Field, Schema, pa
from workers.records import EpisodeRecord, StepRecord

_SCALARS: dict[object, DataType] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
}
# One of each per token, so they are most of a dataset: 32 bits hold any token id, and more of a
# log-probability than the policy computed.
_PER_TOKEN: dict[object, DataType] = {int: pa.int32(), float: pa.float32()}
_PER_TOKEN_SUFFIXES = ("token_ids", "input_ids", "loss_mask", "logprobs")

STEP_KEYS = ("episode_id", "task_id", "group_id", "sample_index")
"""Columns of the episode that the steps table repeats."""


def arrow_fields(model: type[BaseModel], leave_out: frozenset[str] = frozenset()) -> list[Field]:
    """Arrow fields of a model's own fields; those that are not optional are required.

    Inside a column every field is nullable: Arrow's JSON parser and its casts take a null struct for a lack
    of the fields that it requires.

    Raises:
        TypeError: A field has a type that has no Arrow type here.
    """
    return [
        _field(model, name, info.annotation)
        for name, info in model.model_fields.items()
        if name not in leave_out
    ]


def _field(model: type[BaseModel], name: str, annotation: Any) -> Field:
    scalars = _PER_TOKEN if name.endswith(_PER_TOKEN_SUFFIXES) else _SCALARS
    try:
        nullable, inner = _without_null(annotation)
        return pa.field(name, _type(inner, scalars), nullable=nullable)
    except TypeError as error:
        raise TypeError(f"{model.__name__}.{name}: {error}") from error


def _type(annotation: Any, scalars: dict[object, DataType]) -> DataType:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], scalars)
    if origin is list:
        _, inner = _without_null(arguments[0])
        return pa.list_(pa.field("element", _type(inner, scalars)))
    if origin is Literal and all(isinstance(value, str) for value in arguments):
        return pa.string()
    scalar = scalars.get(annotation) or _SCALARS.get(annotation)
    if scalar is not None:
        return scalar
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct([field.with_nullable(True) for field in arrow_fields(annotation)])
    raise TypeError(f"{annotation} has no Arrow type; use str, bool, int, float, a list, a model or Json")


def _without_null(annotation: Any) -> tuple[bool, Any]:
    """Whether the annotation allows None, and what it allows besides."""
    if get_origin(annotation) not in (Union, UnionType):
        return False, annotation
    others = [argument for argument in get_args(annotation) if argument is not NoneType]
    if len(others) != 1:
        raise TypeError(f"{annotation} is a union of several types")
    return True, others[0]


RECORDS: Schema = pa.schema(arrow_fields(EpisodeRecord))
"""The records as the journal holds them: an episode with its steps inside."""

EPISODES: Schema = pa.schema(arrow_fields(EpisodeRecord, leave_out=frozenset({"steps"})))
"""The `episodes` table."""

STEPS: Schema = pa.schema([*(EPISODES.field(name) for name in STEP_KEYS), *arrow_fields(StepRecord)])
"""The `steps` table."""

STATES: Schema = pa.schema(
    [pa.field("state_id", pa.string(), nullable=False), pa.field("state", pa.string(), nullable=False)]
)
"""The `states` table: base environment states as JSON text."""
