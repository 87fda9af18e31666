"""Builds commands and Stripe events with defaults for all that a test does not set."""

import itertools
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger.core.accounts import Kind
from ledger.core.commands import (
    Adjustment,
    Capture,
    Credit,
    Debit,
    DisputeSeen,
    Hold,
    Promotion,
    RefundSeen,
    Release,
    UnappliedReceipt,
    Usage,
)
from shared.kafka import Record
from shared.signed_metadata import CreditOrder, sign
from shared.stripe_events import Header
from shared.topics import TopicName

NOW = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
SIGNING_KEY = "a-key-of-these-tests-0123456789ab"

_numbers = itertools.count(1)


def purchase(
    payment_intent: str = "pi_1", credits: int = 100, *, tenant: str = "acme", amount_minor: int = 1000,
    expires_in_days: int | None = None, order: str | None = None, by_operator: bool = False,
) -> Credit:  # fmt: skip
    """`order`: the purchase that is paid for; else one of this PaymentIntent alone."""
    return Credit(
        tenant, payment_intent, Kind.PURCHASE, credits, amount_minor, "usd", expires_in_days,
        purchase=order or f"pur_of_{payment_intent}", by_operator=by_operator,
    )  # fmt: skip


def refund(
    name: str = "re_1", amount_minor: int = 1000, *, payment_intent: str = "pi_1", status: str = "succeeded"
) -> RefundSeen:
    return RefundSeen(payment_intent, name, amount_minor, "usd", status)


def withdrawn(name: str = "dp_1", amount_minor: int = 1000, *, payment_intent: str = "pi_1") -> DisputeSeen:
    return DisputeSeen(payment_intent, name, amount_minor, "usd", "withdrawn")


def reinstated(name: str = "dp_1", amount_minor: int = 1000, *, payment_intent: str = "pi_1") -> DisputeSeen:
    return DisputeSeen(payment_intent, name, amount_minor, "usd", "reinstated")


def usage(reference: str = "job-1", credits: int = 10, *, tenant: str = "acme", purpose: str = "summaries") -> Usage:
    return Usage(tenant, reference, credits, purpose, NOW)


def debit(
    reference: str = "job-1", credits: int = 10, *, tenant: str = "acme", purpose: str = "summaries",
    may_overdraw: bool = False,
) -> Debit:  # fmt: skip
    return Debit(tenant, reference, credits, purpose, may_overdraw)


def hold(
    reference: str = "hold-1",
    credits: int = 40,
    *,
    tenant: str = "acme",
    expires_at: datetime = NOW + timedelta(hours=1),
) -> Hold:
    return Hold(tenant, reference, credits, "summaries", expires_at)


def capture(name: str = "hold-1", credits: int = 30, *, tenant: str = "acme", may_overdraw: bool = False) -> Capture:
    return Capture(tenant, name, credits, may_overdraw)


def release(name: str = "hold-1", *, tenant: str = "acme") -> Release:
    return Release(tenant, name)


def promotion(
    reference: str = "welcome", credits: int = 20, *, tenant: str = "acme", priority: int = 50,
    expires_at: datetime | None = None,
) -> Promotion:  # fmt: skip
    return Promotion(tenant, reference, credits, priority, expires_at, "welcome")


def adjustment(reference: str = "fix-1", credits: int = -5, *, tenant: str = "acme") -> Adjustment:
    return Adjustment(tenant, reference, credits, "a mistake")


def unapplied(
    payment_intent: str = "pi_1", *, tenant: str = "acme", amount_minor: int = 1000, attempt: str | None = None
) -> UnappliedReceipt:
    return UnappliedReceipt(tenant, payment_intent, amount_minor, "usd", "signature_invalid", attempt=attempt)


def order(**changes: Any) -> CreditOrder:
    """What a PaymentIntent sells: 100 credits for 10.00 USD, of a purchase."""
    fields: dict[str, Any] = {"tenant": "acme", "credits": 100, "amount_minor": 1000, "currency": "usd"}
    if "attempt" not in changes:
        fields["purchase"] = "pur_1"
    return CreditOrder(**(fields | changes))


def payment_intent_object(
    name: str = "pi_1", metadata: Mapping[str, str] | None = None, **changes: Any
) -> dict[str, Any]:
    """A PaymentIntent that succeeded, of a purchase of its own. Its metadata is signed, unless other metadata is
    given."""
    return {
        "id": name,
        "object": "payment_intent",
        "status": "succeeded",
        "amount": 1000,
        "amount_received": 1000,
        "currency": "usd",
        "created": int(NOW.timestamp()),
        "metadata": sign(order(purchase=f"pur_of_{name}"), SIGNING_KEY) if metadata is None else dict(metadata),
        **changes,
    }


def refund_object(name: str = "re_1", **changes: Any) -> dict[str, Any]:
    return {
        "id": name, "object": "refund", "payment_intent": "pi_1", "amount": 1000, "currency": "usd",
        "status": "succeeded", **changes,
    }  # fmt: skip


def dispute_object(name: str = "dp_1", **changes: Any) -> dict[str, Any]:
    return {
        "id": name, "object": "dispute", "payment_intent": "pi_1", "charge": "ch_1", "amount": 1000, "currency": "usd",
        "status": "needs_response", **changes,
    }  # fmt: skip


def event_body(event_type: str, obj: Mapping[str, Any]) -> bytes:
    """Stripe's JSON of an event."""
    return json.dumps(
        {
            "id": f"evt_{next(_numbers)}",
            "object": "event",
            "type": event_type,
            "created": int(NOW.timestamp()),
            "livemode": False,
            "data": {"object": obj},
        }
    ).encode()


def stripe_record(event_type: str, obj: Mapping[str, Any], *, with_headers: bool = True) -> Record:
    """The event as the gateway has written it."""
    headers = {Header.TYPE: event_type} if with_headers else {}
    return Record(TopicName.STRIPE_EVENTS, 0, next(_numbers), "pi_1", event_body(event_type, obj), headers)
