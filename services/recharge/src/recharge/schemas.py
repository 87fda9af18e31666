"""What the HTTP door answers, in camelCase."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from recharge.core.status import LiftedBy


class Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, from_attributes=True)


class Decision(Body):
    """Why a card was charged or not. Written when it differs from the tenant's last one."""

    id: int
    outcome: Literal["charge", "skip"]
    reason: str | None
    detail: str | None = Field(description="More about the reason: a decline code, or what is missing.")
    attempt: str | None
    request: str | None
    package: str | None
    amount_minor: int | None
    currency: str | None
    limited_by_cap: bool | None
    available: int | None
    balance_version: int | None
    profile_version: int
    spent_minor: int
    decided_at: datetime


class Status(Body):
    """Whether a tenant's card would be charged now, and what would change that."""

    state: Literal["off", "waiting", "charging", "paused"] = Field(
        description="`waiting`: on, and nothing has to be done. `paused`: nothing is charged until somebody acts."
    )
    reason: str | None = Field(description="Why no card is charged, as in decisions; null while one is.")
    detail: str | None = Field(description="More about the reason: a decline code, or what is missing.")
    since: datetime | None = Field(description="When that was decided; null before the first decision.")
    lifted_by: list[LiftedBy] = Field(
        description="What would change it, any one of them. Empty where it passes by itself."
    )
    attempt: str | None = Field(description="The attempt that is under way.")


class Attempt(Body):
    """An attempt to charge a saved card."""

    attempt: str
    state: str
    trigger: Literal["automatic", "manual"]
    reason: str | None
    action_required: str | None
    amount_minor: int
    currency: str
    credits: int
    package: str
    limited_by_cap: bool
    payment_intent: str | None
    profile_version: int
    tries: int
    created_at: datetime
    changed_at: datetime


class ClientSecret(Body):
    """What a browser confirms a charge with that waits for authentication: Stripe.js' `confirmCardPayment(clientSecret,
    {payment_method: paymentMethod})`. For this tenant's browser alone, and to be kept nowhere."""

    attempt: str
    payment_intent: str
    payment_method: str | None
    client_secret: str = Field(repr=False)
    amount_minor: int
    currency: str


class Decisions(Body):
    decisions: list[Decision]
    next_cursor: str | None


class Attempts(Body):
    attempts: list[Attempt]
    next_cursor: str | None
