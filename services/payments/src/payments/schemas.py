"""HTTP bodies, camelCase. Amounts are minor units of `currency`, times are UTC."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

AMOUNT_MINOR_MAX = 10**12


class Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class RequestBody(Body):
    """What a client sends; a field that we do not know is an error, so that nobody believes it counted."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


Currency = Annotated[str, Field(pattern="^[A-Za-z]{3}$"), AfterValidator(str.lower)]
AmountMinor = Annotated[int, Field(ge=1, le=AMOUNT_MINOR_MAX)]
Credits = Annotated[int, Field(ge=0, le=2**53 - 1)]
StripeId = Annotated[str, Field(pattern="^[A-Za-z0-9_]{1,255}$")]
#: No control characters: PostgreSQL's text holds no NUL.
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]


class StripeConfig(Body):
    publishable_key: str
    stripe_api_version: str
    ledger_url: str = Field(description="Base address of /api/ledger; empty: the same origin.")
    recharge_url: str = Field(description="Base address of /api/recharge; empty: the same origin.")
    minimum_amount_minor: dict[str, int] = Field(description="The least that Stripe charges, by currency.")


class PackageBody(Body):
    package_id: str
    name: str
    credits: int
    amount_minor: int
    currency: str
    expires_in_days: int | None


class PackageList(Body):
    packages: list[PackageBody]


class CreatePaymentIntent(RequestBody):
    """Either a package, or an amount; never credits: the server prices."""

    package_id: Name | None = None
    amount_minor: AmountMinor | None = None
    currency: Currency | None = None
    save_card: bool = Field(False, description="Keep the card for later charges, also automatic ones.")
    insist: bool = Field(False, description="Buy, and later confirm, although a recharge is under way.")

    @model_validator(mode="after")
    def _names_one_thing(self) -> Self:
        has_amount = self.amount_minor is not None and self.currency is not None
        has_part_of_amount = self.amount_minor is not None or self.currency is not None
        if (self.package_id is not None) == has_amount or (self.package_id is not None and has_part_of_amount):
            raise ValueError("send either packageId, or amountMinor and currency")
        return self


class PaymentIntentCreated(Body):
    purchase_id: str
    payment_intent_id: str
    client_secret: str
    amount_minor: int
    currency: str
    credits: int


class ConfirmPaymentIntent(RequestBody):
    purchase_id: Name
    payment_method_id: StripeId
    insist: bool = Field(
        False, description="Pay although a recharge is under way. Not needed where its creation insisted."
    )


class PaymentIntentConfirmed(Body):
    purchase_id: str
    payment_intent_id: str
    status: str = Field(description="Stripe's: succeeded, processing, requires_action.")
    client_secret: str | None = Field(None, description="Only with requires_action: Stripe.js goes on with it.")


class SetupIntentCreated(Body):
    setup_intent_id: str
    client_secret: str


class PaymentMethod(Body):
    payment_method_id: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    is_default: bool


class PaymentMethodList(Body):
    payment_methods: list[PaymentMethod]


class ConsentGiven(RequestBody):
    text_version: Name


class PutAutoRecharge(RequestBody):
    enabled: bool
    threshold_credits: Credits
    amount_minor: AmountMinor = Field(description="The most that one recharge may cost.")
    currency: Currency
    monthly_cap_minor: AmountMinor
    consent: ConsentGiven | None = Field(None, description="Needed, and recorded, each time it is enabled.")
    payment_method_id: StripeId | None = Field(
        None, description="The saved card that may be charged; left out, the default card. No other one ever is."
    )


class ConsentShown(Body):
    text_version: str
    given_by: str
    given_at: datetime


class AutoRechargeBody(Body):
    """`enabled` is false and the rest None where nothing was ever set."""

    enabled: bool
    threshold_credits: int | None = None
    amount_minor: int | None = None
    currency: str | None = None
    monthly_cap_minor: int | None = None
    consent: ConsentShown | None = None
    payment_method_id: str | None = Field(
        None, description="The card that its owner chose. None: nothing is charged until a card is chosen."
    )


class RechargeTriggered(Body):
    request_id: str
    expires_at: datetime


class BalanceBody(Body):
    """All zero, version 0, where the ledger has not told a balance yet."""

    version: int
    available: int
    held: int
    owed: int
    receivable: int
    usage_by_purpose: dict[str, int]
    changed_at: datetime | None


class HistoryEntry(Body):
    kind: str = Field(description="entry (in the ledger), purchase, or attempt (to charge a saved card).")
    id: str
    at: datetime
    label: str = Field(description="The entry's kind, the purchase's package or `custom`, or what began the attempt.")
    state: str | None
    reason: str | None
    action_required: str | None
    credits: int
    amount_minor: int | None
    currency: str | None
    payment_intent_id: str | None


class HistoryPage(Body):
    items: list[HistoryEntry]
    next_cursor: str | None
