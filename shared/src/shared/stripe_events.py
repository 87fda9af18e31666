"""Stripe's events: which types the product handles, their Kafka keys, and every field that a service reads.

All fields are read here, so that an event of another API version is easy to support: these field names have been
stable.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast

from prometheus_client import Counter
from pydantic_core import from_json

#: The API version that requests are pinned to and that the webhook endpoint is created with.
STRIPE_API_VERSION = "2026-08-26.dahlia"

#: The types that the webhook endpoint subscribes to and the backfill requests. Others are acknowledged and counted.
EVENT_TYPES: tuple[str, ...] = (
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "payment_intent.processing",
    "payment_intent.requires_action",
    "payment_intent.canceled",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "radar.early_fraud_warning.created",
    "payment_method.attached",
    "payment_method.detached",
    "payment_method.updated",
    "payment_method.automatically_updated",
    "customer.updated",
    "customer.deleted",
    "setup_intent.succeeded",
    "setup_intent.setup_failed",
)


class Header:
    """The Kafka headers of a record in `stripe.events`, whose value is the event as Stripe sent it."""

    EVENT_ID = "stripe-event-id"
    TYPE = "stripe-event-type"
    LIVEMODE = "stripe-livemode"
    RECEIVED_AT = "received-at"
    ORIGIN = "origin"  # webhook | api
    TRACEPARENT = "traceparent"


class MalformedEvent(ValueError):
    """The bytes are not a Stripe event."""


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """The envelope of an event. `object` is the snapshot that it contains. `created` has a resolution of 1 s."""

    id: str
    type: str
    created: datetime
    livemode: bool
    account: str | None
    object: Mapping[str, Any]


def parse_event(body: bytes) -> StripeEvent:
    """Parses an event's envelope. Raises `MalformedEvent`. Fields that `StripeEvent` lacks are not checked."""
    try:
        event = from_json(body)
        return StripeEvent(
            id=_text(event["id"]),
            type=_text(event["type"]),
            created=datetime.fromtimestamp(event["created"], UTC),
            livemode=event["livemode"] is True,
            account=id_of(event.get("account")),
            object=_mapping(event["data"]["object"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise MalformedEvent(f"not a Stripe event: {type(error).__name__}") from error


_events_of_other_accounts = Counter(
    "stripe_events_of_other_accounts_total", "Stripe events of connected accounts: not our money, so they are ignored."
)


def is_of_own_account(event: StripeEvent) -> bool:
    """Whether the event belongs to the product's own Stripe account. Counts events of other accounts; callers must
    ignore them.

    Stripe sets `account` only on events of connected accounts, and sends those to endpoints that listen to them
    (https://docs.stripe.com/connect/webhooks). Payments to a connected account buy no credits, whatever their metadata.
    """
    if event.account is None:
        return True
    _events_of_other_accounts.inc()
    return False


def routing_key(event: StripeEvent) -> str:
    """Returns the Kafka key: the id of the object's PaymentIntent, else of its customer, else its own id.

    So all events of a payment are in one partition, and all events of a card are with those of its customer.
    """
    obj = event.object
    if obj.get("object") == "payment_intent":
        return id_of(obj.get("id")) or event.id
    return id_of(obj.get("payment_intent")) or id_of(obj.get("customer")) or id_of(obj.get("id")) or event.id


def id_of(value: Any) -> str | None:
    """Returns the id in an expandable field, which contains either the id or the whole object."""
    if value is None:
        return None
    if isinstance(value, str):
        return value or None
    if isinstance(value, Mapping):
        return id_of(cast(Mapping[str, Any], value).get("id"))
    return None


@dataclass(frozen=True, slots=True)
class PaymentIntentView:
    """The fields of a PaymentIntent that services read."""

    id: str
    status: str
    amount_minor: int
    amount_received_minor: int
    currency: str
    customer: str | None
    payment_method: str | None
    latest_charge: str | None
    metadata: Mapping[str, str]
    created: datetime
    decline_code: str | None
    advice_code: str | None
    error_code: str | None
    client_secret: str | None = field(repr=False)

    @staticmethod
    def of(obj: Mapping[str, Any]) -> "PaymentIntentView":
        """Reads Stripe's JSON. Raises `MalformedEvent` if a required field is missing or has another type."""
        try:
            error: Mapping[str, Any] = obj.get("last_payment_error") or {}
            return PaymentIntentView(
                id=_text(obj["id"]),
                status=_text(obj["status"]),
                amount_minor=_integer(obj["amount"]),
                amount_received_minor=_integer(obj.get("amount_received") or 0),
                currency=_text(obj["currency"]).lower(),
                customer=id_of(obj.get("customer")),
                payment_method=id_of(obj.get("payment_method")),
                latest_charge=id_of(obj.get("latest_charge")),
                metadata=dict(obj.get("metadata") or {}),
                created=datetime.fromtimestamp(_integer(obj["created"]), UTC),
                decline_code=error.get("decline_code"),
                advice_code=error.get("advice_code"),
                error_code=error.get("code"),
                client_secret=obj.get("client_secret"),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as problem:
            raise MalformedEvent(f"not a PaymentIntent: {problem}") from problem


@dataclass(frozen=True, slots=True)
class RefundView:
    """The fields of a Refund that services read.

    `status` is pending, requires_action, succeeded, failed or canceled.
    """

    id: str
    payment_intent: str | None
    amount_minor: int
    currency: str
    status: str

    @staticmethod
    def of(obj: Mapping[str, Any]) -> "RefundView":
        """From Stripe's JSON; raises `MalformedEvent`."""
        try:
            return RefundView(
                id=_text(obj["id"]),
                payment_intent=id_of(obj.get("payment_intent")),
                amount_minor=_integer(obj["amount"]),
                currency=_text(obj["currency"]).lower(),
                status=_text(obj.get("status") or "pending"),
            )
        except (KeyError, TypeError) as problem:
            raise MalformedEvent(f"not a Refund: {problem}") from problem


@dataclass(frozen=True, slots=True)
class DisputeView:
    """The fields of a Dispute that services read. In a `warning_*` status no funds are withdrawn."""

    id: str
    payment_intent: str | None
    charge: str | None
    amount_minor: int
    currency: str
    status: str

    @staticmethod
    def of(obj: Mapping[str, Any]) -> "DisputeView":
        """From Stripe's JSON; raises `MalformedEvent`."""
        try:
            return DisputeView(
                id=_text(obj["id"]),
                payment_intent=id_of(obj.get("payment_intent")),
                charge=id_of(obj.get("charge")),
                amount_minor=_integer(obj["amount"]),
                currency=_text(obj["currency"]).lower(),
                status=_text(obj["status"]),
            )
        except (KeyError, TypeError) as problem:
            raise MalformedEvent(f"not a Dispute: {problem}") from problem


#: What can happen to the funds of a dispute.
DisputeMove = Literal["withdrawn", "reinstated"]


@dataclass(frozen=True, slots=True)
class PaymentMethodView:
    """The fields of a PaymentMethod that services read. Nothing else of a card is ever stored."""

    id: str
    customer: str | None
    type: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    fingerprint: str | None

    @staticmethod
    def of(obj: Mapping[str, Any]) -> "PaymentMethodView":
        """From Stripe's JSON; raises `MalformedEvent`."""
        try:
            card: Mapping[str, Any] = obj.get("card") or {}
            return PaymentMethodView(
                id=_text(obj["id"]),
                customer=id_of(obj.get("customer")),
                type=_text(obj["type"]),
                brand=card.get("brand"),
                last4=card.get("last4"),
                exp_month=card.get("exp_month"),
                exp_year=card.get("exp_year"),
                fingerprint=card.get("fingerprint"),
            )
        except (KeyError, TypeError, AttributeError) as problem:
            raise MalformedEvent(f"not a PaymentMethod: {problem}") from problem


@dataclass(frozen=True, slots=True)
class SetupIntentView:
    """The fields of a SetupIntent that services read: which card it has saved for which customer."""

    id: str
    status: str
    customer: str | None
    payment_method: str | None
    client_secret: str | None

    @staticmethod
    def of(obj: Mapping[str, Any]) -> "SetupIntentView":
        """From Stripe's JSON; raises `MalformedEvent`."""
        try:
            return SetupIntentView(
                id=_text(obj["id"]),
                status=_text(obj["status"]),
                customer=id_of(obj.get("customer")),
                payment_method=id_of(obj.get("payment_method")),
                client_secret=obj.get("client_secret"),
            )
        except (KeyError, TypeError) as problem:
            raise MalformedEvent(f"not a SetupIntent: {problem}") from problem


@dataclass(frozen=True, slots=True)
class CustomerView:
    """The fields of a Customer that services read."""

    id: str
    default_payment_method: str | None

    @staticmethod
    def of(obj: Mapping[str, Any]) -> "CustomerView":
        """From Stripe's JSON; raises `MalformedEvent`."""
        try:
            settings: Mapping[str, Any] = obj.get("invoice_settings") or {}
            return CustomerView(_text(obj["id"]), id_of(settings.get("default_payment_method")))
        except (KeyError, TypeError, AttributeError) as problem:
            raise MalformedEvent(f"not a Customer: {problem}") from problem


def created_of(obj: Mapping[str, Any]) -> datetime:
    """Returns when a Stripe object was created. Raises `MalformedEvent`."""
    try:
        return datetime.fromtimestamp(_integer(obj["created"]), UTC)
    except (KeyError, TypeError) as problem:
        raise MalformedEvent(f"no time of creation: {problem}") from problem


def paid_at_of(payment_intent: Mapping[str, Any]) -> datetime:
    """Returns when a PaymentIntent was last charged if `latest_charge` is expanded, else when it was created. Raises
    `MalformedEvent`."""
    charge: Any = payment_intent.get("latest_charge")
    return created_of(cast(Mapping[str, Any], charge) if isinstance(charge, Mapping) else payment_intent)


def dispute_moves_of(dispute: Mapping[str, Any]) -> Mapping[DisputeMove, datetime]:
    """Returns what happened to the funds of a Dispute, by its balance transactions, and when it last happened. Raises
    `MalformedEvent`."""
    moves: dict[DisputeMove, datetime] = {}
    try:
        for transaction in cast(list[Mapping[str, Any]], dispute.get("balance_transactions") or []):
            moves["withdrawn" if _integer(transaction["amount"]) < 0 else "reinstated"] = created_of(transaction)
    except (KeyError, TypeError, AttributeError) as problem:
        raise MalformedEvent(f"not a Dispute: {problem}") from problem
    return moves


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no text")
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no integer")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no object")
    return cast(dict[str, Any], value)
