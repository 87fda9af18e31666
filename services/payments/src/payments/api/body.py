"""What all bodies have in common: camelCase. Amounts are minor units of `currency`, times are UTC."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

AMOUNT_MINOR_MAX = 10**12


class Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class RequestBody(Body):
    """What a client sends. An unknown field is an error, so that no client believes that it had an effect."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


Currency = Annotated[str, Field(pattern="^[A-Za-z]{3}$"), AfterValidator(str.lower)]
AmountMinor = Annotated[int, Field(ge=1, le=AMOUNT_MINOR_MAX)]
Credits = Annotated[int, Field(ge=0, le=2**53 - 1)]
StripeId = Annotated[str, Field(pattern="^[A-Za-z0-9_]{1,255}$")]
#: No control characters: PostgreSQL's text holds no NUL.
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
