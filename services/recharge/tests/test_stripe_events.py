"""What Stripe's events are translated to."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic_core import to_json
from recharge_environment import SIGNING_KEY

from recharge.core.attempts import Attempt, State
from recharge.core.cards import CardEvidence
from recharge.core.disputes import CLOSED_DISPUTE_STATUSES, DisputeSeen
from recharge.core.proof import NamedPaymentIntent, is_believable
from recharge.stripe_events import IrrelevantEvent, translate
from shared.signed_metadata import CreditOrder, sign
from shared.stripe_events import MalformedEvent

CREATED = datetime(2026, 9, 15, 12, tzinfo=UTC)
ORDER = {"tenant": "acme", "credits": 1_000, "amount_minor": 4_500, "currency": "usd"}
OF_ATTEMPT = sign(CreditOrder(**ORDER, attempt="att_1"), SIGNING_KEY)
OF_PURCHASE = sign(CreditOrder(**ORDER, purchase="pur_1"), SIGNING_KEY)
ATTEMPT = Attempt(
    tenant_id="acme", attempt="att_1", version=1, state=State.CHARGING, trigger="automatic", request=None,
    amount_minor=4_500, currency="usd", credits=1_000, package="medium", expires_in_days=None, limited_by_cap=False,
    stripe_customer="cus_1", profile_version=1, balance_available=10, created_at=CREATED, changed_at=CREATED,
    next_at=CREATED,
)  # fmt: skip


def _event(kind: str, obj: dict[str, Any], **more: Any) -> bytes:
    envelope = {"id": "evt_1", "type": kind, "created": int(CREATED.timestamp()), "livemode": False}
    return to_json({**envelope, "data": {"object": obj}, **more})


def _payment_intent(metadata: dict[str, str], status: str = "succeeded", **more: Any) -> bytes:
    intent = {
        "id": "pi_1", "object": "payment_intent", "status": status, "amount": 4_500, "amount_received": 4_500,
        "currency": "usd", "customer": "cus_1", "payment_method": "pm_1", "latest_charge": None, "metadata": metadata,
        "created": int(CREATED.timestamp()), "last_payment_error": None, "client_secret": None,
    }  # fmt: skip
    return _event(f"payment_intent.{status}", intent, **more)


def test_a_payment_intent_of_an_attempt_is_believed_if_it_is_signed() -> None:
    seen = translate(_payment_intent(OF_ATTEMPT), [SIGNING_KEY])
    assert isinstance(seen, NamedPaymentIntent)
    assert (seen.attempt, seen.view.id, seen.is_signed, is_believable(ATTEMPT, seen)) == ("att_1", "pi_1", True, True)


def test_an_unsigned_payment_intent_is_believed_only_if_it_is_known_to_be_the_attempts() -> None:
    seen = translate(_payment_intent({**OF_ATTEMPT, "credits": "9000", "attempt": "att_\x001"}), [SIGNING_KEY])
    assert isinstance(seen, NamedPaymentIntent)
    assert (seen.attempt, seen.is_signed, is_believable(ATTEMPT, seen)) == ("att_1", False, False)
    known = ATTEMPT.next_version(CREATED, payment_intent="pi_1")
    assert is_believable(known, seen)


def test_a_purchase_that_was_paid_is_evidence_about_its_card() -> None:
    evidence = CardEvidence("cus_1", "pm_1", CREATED)
    assert translate(_payment_intent(OF_PURCHASE), [SIGNING_KEY]) == evidence
    updated = {"id": "pm_1", "customer": "cus_1", "type": "card", "card": None}
    assert translate(_event("payment_method.automatically_updated", updated), [SIGNING_KEY]) == evidence


@pytest.mark.parametrize(
    "metadata", [{}, {"tenant": "acme"}, {**OF_PURCHASE, "credits": "1"}], ids=["none", "of_others", "edited"]
)
def test_a_payment_that_is_no_purchase_of_ours_is_irrelevant(metadata: dict[str, str]) -> None:
    assert translate(_payment_intent(metadata), [SIGNING_KEY]) == IrrelevantEvent("payment_intent.succeeded")


@pytest.mark.parametrize("status", ["needs_response", *sorted(CLOSED_DISPUTE_STATUSES)])
def test_a_dispute_is_seen_a_second_later_and_may_be_closed(status: str) -> None:
    dispute = {"id": "dp_1", "payment_intent": "pi_1", "charge": "ch_1", "amount": 1, "currency": "usd"}
    seen = translate(_event("charge.dispute.updated", {**dispute, "status": status}), [SIGNING_KEY])
    closed_at = CREATED if status in CLOSED_DISPUTE_STATUSES else None
    assert seen == DisputeSeen("dp_1", "pi_1", status, CREATED + timedelta(seconds=1), closed_at)
    of_no_payment_intent = {**dispute, "status": status, "payment_intent": None}
    assert translate(_event("charge.dispute.updated", of_no_payment_intent), [SIGNING_KEY]) is None


def test_an_event_of_another_account_is_not_translated() -> None:
    assert translate(_payment_intent(OF_ATTEMPT, account="acct_other"), [SIGNING_KEY]) is None


@pytest.mark.parametrize("body", [b"", b"{}", _event("charge.dispute.created", {"id": "dp_1"})])
def test_an_event_that_cannot_be_read_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        translate(body, [SIGNING_KEY])
