"""The events of the product: CloudEvents 1.0 in JSON, one class per type. An event states a fact, never a command.

Each class has an example, which the tests encode and decode and which `docs/events.md` shows.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json
from typing_extensions import TypedDict

from shared.topics import TopicName

EventT = TypeVar("EventT", bound="DomainEvent")


class UndecodableEvent(ValueError):
    """The bytes are not an event of the expected type."""


class DomainEvent(BaseModel):
    """The base of all events. `key` is the Kafka key: events of one key stay in order."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    TYPE: ClassVar[str]
    SOURCE: ClassVar[str]
    TOPIC: ClassVar[TopicName]

    @property
    def key(self) -> str:
        """The Kafka key."""
        raise NotImplementedError


class TenantEvent(DomainEvent):
    tenant: str

    @property
    def key(self) -> str:
        return self.tenant


class EntryPosted(TenantEvent):
    """The ledger posted a transfer. `credits` is the change of the balance. Debits, holds, captures and releases do not
    have this event."""

    TYPE = "ledger.entry-posted.v1"
    SOURCE = "/ledger"
    TOPIC = TopicName.ENTRY_POSTED

    reference: str
    door: Literal["stripe", "product", "operator", "system"] = Field(description="The namespace of `reference`.")
    kind: str
    credits: int
    amount_minor: int | None = None
    currency: str | None = None
    payment_intent: str | None = None
    purchase: str | None = None
    attempt: str | None = None
    balance_version: int = Field(description="The version of the balance that first contains this entry.")
    posted_at: datetime


class BalanceChanged(TenantEvent):
    """State: a tenant's balance, in credits. A higher version replaces a lower one."""

    TYPE = "ledger.balance-changed.v1"
    SOURCE = "/ledger"
    TOPIC = TopicName.BALANCE_CHANGED

    version: int
    available: int
    held: int
    owed: int = Field(description="Overdraft and receivable.")
    receivable: int = Field(description="The part of `owed` that refunds and disputes caused.")
    usage_day: date | None = None
    usage_by_purpose: dict[str, int] = Field(
        default={}, description="Credits used on `usage_day` so far, for the 20 largest purposes."
    )
    usage_of_other_purposes: int = 0
    changed_at: datetime


class ReversalRefused(TenantEvent):
    """A refund, or a change of a dispute's funds, is in another currency than its payment. The ledger took back no
    credits: an operator has to decide."""

    TYPE = "ledger.reversal-refused.v1"
    SOURCE = "/ledger"
    TOPIC = TopicName.REVERSAL_REFUSED

    payment_intent: str
    reversal: str = Field(description="The id of the refund, or of the dispute and what happened: `dp_…:withdrawn`.")
    amount_minor: int
    currency: str
    credited_currency: str
    refused_at: datetime


class StripeObjectMissing(DomainEvent):
    """The ledger lacks an object that exists at Stripe, because its event was lost. The webhook gateway reads it from
    Stripe and publishes it to `stripe.events` again."""

    TYPE = "ledger.stripe-object-missing.v1"
    SOURCE = "/ledger"
    TOPIC = TopicName.STRIPE_OBJECT_MISSING

    kind: Literal["payment_intent", "refund", "dispute"]
    object_id: str = Field(min_length=1, max_length=255)
    payment_intent: str
    found_at: datetime

    @property
    def key(self) -> str:
        return self.payment_intent


class Card(BaseModel):
    """A saved card: Stripe's id, and the details that may be shown to a person."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    payment_method: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    fingerprint: str | None
    usable: bool


class Consent(BaseModel):
    """The consent to off-session charges: who gave it, when, and to which version of the text."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    text_version: str
    given_by: str
    given_at: datetime


class AutoRecharge(BaseModel):
    """A tenant's settings for automatic recharges. `monthly_cap_minor` limits one calendar month, in UTC."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    enabled: bool
    threshold_credits: int
    amount_minor: int = Field(description="The most that one recharge may cost; it buys the best package within that.")
    currency: str
    monthly_cap_minor: int
    consent: Consent | None
    payment_method: str | None = Field(
        default=None, description="The card that was chosen for recharges. No other card is ever charged."
    )


class OpenPurchase(BaseModel):
    """A purchase that may still be paid, or that is paid and not credited yet: `open` until the payer confirms it,
    `processing` while the bank decides, `succeeded` between the payment and the credit."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    purchase: str
    state: Literal["open", "processing", "succeeded"]
    since: datetime = Field(description="When it entered this state, or when the payer last tried to pay.")


class BillingProfile(TenantEvent):
    """State: how a tenant may be charged. A higher version replaces a lower one."""

    TYPE = "payments.billing-profile-changed.v1"
    SOURCE = "/payments"
    TOPIC = TopicName.BILLING_PROFILE_CHANGED

    version: int
    stripe_customer: str | None
    cards: tuple[Card, ...] = ()
    default_payment_method: str | None = None
    auto_recharge: AutoRecharge | None = None
    open_purchases: tuple[str, ...] = Field(
        default=(), description="Purchases that may still be paid, or are paid and not credited yet."
    )
    purchases: tuple[OpenPurchase, ...] = Field(default=(), description="The same purchases, with their states.")
    credited_in_version: int = Field(
        default=0,
        description="The version of the balance that contains the latest credits. An older version lacks them.",
    )
    changed_at: datetime


class CreditPackage(DomainEvent):
    """State: a package of credits and its price. A higher version replaces a lower one."""

    TYPE = "payments.catalog-changed.v1"
    SOURCE = "/payments"
    TOPIC = TopicName.CATALOG_CHANGED

    package: str
    version: int
    name: str
    credits: int
    price_minor: int
    currency: str
    active: bool
    expires_in_days: int | None = None

    @property
    def key(self) -> str:
        return self.package


class RechargeRequested(TenantEvent):
    """The tenant requested a recharge now. Ignored after `expires_at`."""

    TYPE = "payments.recharge-requested.v1"
    SOURCE = "/payments"
    TOPIC = TopicName.RECHARGE_REQUESTED

    request: str
    requested_by: str
    requested_at: datetime
    expires_at: datetime


class AttemptChanged(TenantEvent):
    """An attempt to charge a saved card changed its state. Within one attempt a higher `version` is newer."""

    TYPE = "recharge.attempt-changed.v1"
    SOURCE = "/recharge"
    TOPIC = TopicName.ATTEMPT_CHANGED

    attempt: str
    version: int
    state: Literal[
        "reserved", "charging", "charged", "credited", "requires_action", "declined", "retry_scheduled", "unknown",
        "canceled",
    ]  # fmt: skip
    trigger: Literal["automatic", "manual"]
    reason: str | None = Field(default=None, description="Stripe's decline code, or why the attempt waits or ended.")
    amount_minor: int
    currency: str
    credits: int
    payment_intent: str | None = None
    action_required: Literal["authenticate", "new_card"] | None = Field(
        default=None, description="What the tenant must do."
    )
    profile_version: int = Field(description="The version of the billing profile that the attempt is based on.")
    changed_at: datetime


class UsageRecorded(TenantEvent):
    """Published by the product: credits have been used, whatever the balance. `reference` is unique per tenant."""

    TYPE = "usage.recorded.v1"
    SOURCE = "/product"
    TOPIC = TopicName.USAGE_RECORDED

    reference: str = Field(min_length=1, max_length=255)
    credits: int = Field(strict=True, gt=0, le=2**53 - 1)
    occurred_at: datetime
    purpose: str = Field("", max_length=100)


EVENT_CLASSES: tuple[type[DomainEvent], ...] = (
    EntryPosted, BalanceChanged, ReversalRefused, StripeObjectMissing, BillingProfile, CreditPackage,
    RechargeRequested, AttemptChanged, UsageRecorded,
)  # fmt: skip

_EXAMPLE_TIME = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
EXAMPLES: Mapping[type[DomainEvent], DomainEvent] = {
    EntryPosted: EntryPosted(
        tenant="acme", reference="pi_3QfExample", door="stripe", kind="purchase", credits=1000, amount_minor=1000,
        currency="usd", payment_intent="pi_3QfExample", purchase="pur_01", balance_version=7, posted_at=_EXAMPLE_TIME,
    ),
    BalanceChanged: BalanceChanged(
        tenant="acme", version=7, available=1200, held=100, owed=0, receivable=0, usage_day=date(2026, 9, 1),
        usage_by_purpose={"summaries": 40}, usage_of_other_purposes=3, changed_at=_EXAMPLE_TIME,
    ),
    ReversalRefused: ReversalRefused(
        tenant="acme", payment_intent="pi_3QfExample", reversal="re_3QfExample", amount_minor=900, currency="eur",
        credited_currency="usd", refused_at=_EXAMPLE_TIME,
    ),
    StripeObjectMissing: StripeObjectMissing(
        kind="refund", object_id="re_3QfExample", payment_intent="pi_3QfExample", found_at=_EXAMPLE_TIME,
    ),
    BillingProfile: BillingProfile(
        tenant="acme", version=4, stripe_customer="cus_Example",
        cards=(
            Card(payment_method="pm_Example", brand="visa", last4="4242", exp_month=12, exp_year=2030,
                 fingerprint="f1ngerpr1nt", usable=True),
        ),
        default_payment_method="pm_Example",
        auto_recharge=AutoRecharge(
            enabled=True, threshold_credits=500, amount_minor=5000, currency="usd", monthly_cap_minor=20000,
            consent=Consent(text_version="2026-01", given_by="user_17", given_at=_EXAMPLE_TIME),
            payment_method="pm_Example",
        ),
        changed_at=_EXAMPLE_TIME,
    ),
    CreditPackage: CreditPackage(
        package="starter", version=1, name="Starter", credits=1000, price_minor=1000, currency="usd", active=True,
    ),
    RechargeRequested: RechargeRequested(
        tenant="acme", request="req_01", requested_by="user_17", requested_at=_EXAMPLE_TIME,
        expires_at=datetime(2026, 9, 1, 12, 10, tzinfo=UTC),
    ),
    AttemptChanged: AttemptChanged(
        tenant="acme", attempt="att_01", version=2, state="charged", trigger="automatic", amount_minor=4500,
        currency="usd", credits=5000, payment_intent="pi_3QfExample", profile_version=4, changed_at=_EXAMPLE_TIME,
    ),
    UsageRecorded: UsageRecorded(
        tenant="acme", reference="job-4711", credits=12, occurred_at=_EXAMPLE_TIME, purpose="summaries",
    ),
}  # fmt: skip


def encode(event: DomainEvent, *, event_id: str, now: datetime, traceparent: str | None = None) -> bytes:
    """Encodes an event as CloudEvents 1.0 JSON (https://github.com/cloudevents/spec, structured mode)."""
    envelope: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id,
        "source": event.SOURCE,
        "type": event.TYPE,
        "subject": event.key,
        "time": now,
        "datacontenttype": "application/json",
        "data": event,
    }
    if traceparent is not None:
        envelope["traceparent"] = traceparent
    return to_json(envelope)


class _Envelope(TypedDict, Generic[EventT]):
    specversion: Literal["1.0"]
    type: str
    data: EventT


@lru_cache
def _envelope_reader(kind: type[DomainEvent]) -> Callable[[bytes], Any]:
    """Returns a function that parses an envelope and its data in one pass, which is much of a consumer's work."""
    adapter = TypeAdapter(_Envelope[kind])  # pyright: ignore[reportInvalidTypeForm]  # one type for each kind
    return adapter.validator.validate_json


def decode(value: bytes | None, kind: type[EventT]) -> EventT | None:
    """Decodes an event of type `kind`. Returns None for a CloudEvent of another type, such as a newer one.

    Raises `UndecodableEvent` if the bytes are not a CloudEvent, or if the data does not fit the type.
    """
    try:
        whole = _envelope_reader(kind)(value or b"")
        if whole["type"] == kind.TYPE:
            return whole["data"]
    except ValidationError:
        pass  # perhaps it is of another type
    try:
        envelope = from_json(value or b"")
        if envelope["specversion"] != "1.0":
            raise UndecodableEvent("not CloudEvents 1.0")
        if envelope["type"] != kind.TYPE:
            return None
        return kind.model_validate(envelope["data"])
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise UndecodableEvent(f"not a {kind.TYPE}: {type(error).__name__}") from error
