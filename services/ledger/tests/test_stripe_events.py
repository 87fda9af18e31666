"""Which Stripe events become commands, and which metadata passes the check."""

from collections.abc import Mapping
from typing import Any

import pytest

from ledger.core.accounts import CREDITS_MAX, Kind
from ledger.core.commands import Command, Credit, DisputeSeen, RefundSeen, UnappliedReceipt
from ledger.stripe_events import command_of
from shared.signed_metadata import MARKER, sign
from shared.stripe_events import EVENT_TYPES, MalformedEvent, parse_event

from .builders import SIGNING_KEY, dispute_object, event_body, order, payment_intent_object, refund_object


def command(event_type: str, obj: Mapping[str, Any]) -> Command | None:
    return command_of(parse_event(event_body(event_type, obj)), ["a-newer-key-0123456789", SIGNING_KEY])


def test_a_signed_purchase_is_a_credit() -> None:
    metadata = sign(order(expires_in_days=30), SIGNING_KEY) | {"note": "an operator's own"}
    assert command("payment_intent.succeeded", payment_intent_object(metadata=metadata)) == Credit(
        "acme", "pi_1", Kind.PURCHASE, 100, 1000, "usd", expires_in_days=30, purchase="pur_1"
    )


def test_a_signed_attempt_is_a_recharge() -> None:
    found = command(
        "payment_intent.succeeded", payment_intent_object(metadata=sign(order(attempt="att_1"), SIGNING_KEY))
    )
    assert isinstance(found, Credit)
    assert (found.kind, found.attempt, found.purchase) == (Kind.RECHARGE, "att_1", None)


@pytest.mark.parametrize(
    ("metadata", "changes", "reason"),
    [
        (sign(order(), "somebody-else's-key-0123456789"), {}, "signature_invalid"),
        (sign(order(), SIGNING_KEY) | {"credits": "100000"}, {}, "signature_invalid"),
        ({MARKER: "v1"}, {}, "signature_invalid"),
        (sign(order(), SIGNING_KEY), {"amount_received": 999}, "amount_differs"),
        (sign(order(), SIGNING_KEY), {"amount_received": 1001}, "amount_differs"),
        (sign(order(), SIGNING_KEY), {"currency": "eur"}, "currency_differs"),
        (sign(order(tenant=""), SIGNING_KEY), {}, "tenant_invalid"),
        (sign(order(credits=0), SIGNING_KEY), {}, "credits_out_of_range"),
        (sign(order(credits=CREDITS_MAX + 1), SIGNING_KEY), {}, "credits_out_of_range"),
        (sign(order(expires_in_days=0), SIGNING_KEY), {}, "expiry_out_of_range"),
    ],
)
def test_a_payment_that_fails_the_check_is_an_unapplied_receipt(
    metadata: Mapping[str, str], changes: Mapping[str, Any], reason: str
) -> None:
    found = command("payment_intent.succeeded", payment_intent_object(metadata=metadata, **changes))
    assert isinstance(found, UnappliedReceipt)
    assert found.reason == reason
    assert found.amount_minor == changes.get("amount_received", 1000)
    assert found.currency == changes.get("currency", "usd")
    assert found.purchase == metadata.get("purchase")


def test_a_receipt_keeps_what_unsigned_metadata_claims_within_bounds() -> None:
    metadata = {MARKER: "v1", "attempt": "att_1", "tenant": "a\x00b" + "c" * 1000}
    found = command("payment_intent.succeeded", payment_intent_object(metadata=metadata))
    assert isinstance(found, UnappliedReceipt)
    assert (found.attempt, found.claimed_tenant) == ("att_1", "ab" + "c" * 498)


def test_a_payment_without_our_marker_is_ignored() -> None:
    assert command("payment_intent.succeeded", payment_intent_object(metadata={"tenant": "acme"})) is None


@pytest.mark.parametrize("event_type", ["refund.created", "refund.updated", "refund.failed"])
def test_refunds_are_reversals(event_type: str) -> None:
    assert command(event_type, refund_object(status="pending")) == RefundSeen("pi_1", "re_1", 1000, "usd", "pending")


def test_a_refund_without_payment_intent_is_ignored() -> None:
    assert command("refund.created", refund_object(payment_intent=None)) is None


def test_disputes_count_by_the_funds_they_move() -> None:
    assert command("charge.dispute.funds_withdrawn", dispute_object()) == DisputeSeen(
        "pi_1", "dp_1", 1000, "usd", "withdrawn"
    )
    assert command("charge.dispute.funds_reinstated", dispute_object(status="won")) == DisputeSeen(
        "pi_1", "dp_1", 1000, "usd", "reinstated"
    )


@pytest.mark.parametrize("status", ["warning_needs_response", "warning_under_review", "warning_closed"])
def test_a_dispute_warning_is_ignored(status: str) -> None:
    assert command("charge.dispute.funds_withdrawn", dispute_object(status=status)) is None


def test_every_other_type_is_ignored() -> None:
    moving = ("payment_intent.succeeded", "refund.", "charge.dispute.funds_")
    others = [each for each in EVENT_TYPES if not each.startswith(moving)]
    assert len(others) == len(EVENT_TYPES) - 6
    for event_type in [*others, "invoice.paid"]:
        assert command(event_type, payment_intent_object()) is None


def test_an_object_without_a_required_field_is_malformed() -> None:
    with pytest.raises(MalformedEvent):
        command("payment_intent.succeeded", payment_intent_object() | {"currency": None})
    with pytest.raises(MalformedEvent):
        command("refund.created", {"id": "re_1", "payment_intent": "pi_1"})
