"""A digest of an episode's record, by which a later check sees that it is as its worker wrote it."""

import hashlib
from array import array

from workers.records import EpisodeRecord


def digest_of(record: EpisodeRecord) -> str:
    """A digest of all of a record but its `digest`: 32 hexadecimal digits.

    It is that of the record's JSON text without its nulls, so that a field that is added to the records
    later, and is null in older ones, changes none. Log-probabilities are rounded to 32 bits, as the dataset
    holds them.

    Raises:
        PydanticSerializationError: The record holds text that cannot be written as UTF-8.
    """
    steps = [
        step.model_copy(update={"completion_logprobs": array("f", step.completion_logprobs).tolist()})
        if step.completion_logprobs
        else step
        for step in record.steps
    ]
    text = record.model_copy(update={"steps": steps, "digest": None}).model_dump_json(exclude_none=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
