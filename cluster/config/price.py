"""What a policy's tokens cost."""

from typing import Annotated

from pydantic import Field

from workers.settings import Settings


class TokenPrice(Settings):
    """What a million tokens cost, in a currency of your choice."""

    input: Annotated[float, Field(ge=0)]
    """Of prompts."""
    output: Annotated[float, Field(ge=0)]
    """That were sampled."""
    cached: Annotated[float, Field(ge=0)] | None = None
    """Of prompts, that the endpoint says it had in its cache. Null: as `input`."""
