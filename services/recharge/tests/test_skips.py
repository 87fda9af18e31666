"""What follows when a card must not be charged now, for the attempt and for the request."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from recharge.core.attempts import Attempt, State, Try
from recharge.core.situation import Charge, Reason, Request, Skip, summary_of
from recharge.core.skips import (
    ANSWERS_REQUEST,
    REQUEST_GRACE_PERIOD,
    REQUEST_WAITS_FOR,
    RETRYABLE,
    STILL_WANTED,
    WAITED_FOR,
    RequestOutcome,
    after_skip,
    request_outcome,
    why_unwanted,
)
from shared.events import AutoRecharge, BillingProfile, CreditPackage

NOW = datetime(2026, 9, 15, 12, tzinfo=UTC)
RESERVED = Attempt(
    tenant_id="acme", attempt="att_1", version=1, state=State.RESERVED, trigger="manual", request="req_1",
    amount_minor=4_500, currency="usd", credits=1_000, package="medium", expires_in_days=None, limited_by_cap=False,
    stripe_customer="cus_1", profile_version=1, balance_available=10, created_at=NOW, changed_at=NOW, next_at=NOW,
)  # fmt: skip
IN_DOUBT = Try(
    n=1, payment_method="pm_a", fingerprint="a", idempotency_key="att_1:1", creates=True, first_called_at=NOW, calls=1,
    in_doubt=True,
)  # fmt: skip
UNKNOWN = replace(RESERVED, state=State.UNKNOWN, n=1)
CHARGED_BEFORE = replace(RESERVED, state=State.RETRY_SCHEDULED, n=1, payment_intent="pi_1")
PACKAGE = CreditPackage(
    package="small", version=1, name="small", credits=100, price_minor=500, currency="usd", active=True
)
REQUEST = Request("req_1", requested_at=NOW, expires_at=NOW + timedelta(minutes=10))
OWN_KEY_KEPT = {Reason.REQUEST_EXPIRED, Reason.NEED_ALREADY_SERVED}


def _profile(payment_method: str) -> BillingProfile:
    settings = AutoRecharge(
        enabled=True, threshold_credits=50, amount_minor=5_000, currency="usd", monthly_cap_minor=20_000, consent=None,
        payment_method=payment_method,
    )  # fmt: skip
    return BillingProfile(
        tenant="acme", version=1, stripe_customer="cus_1", cards=(), default_payment_method=None,
        auto_recharge=settings, changed_at=NOW,
    )  # fmt: skip


@pytest.mark.parametrize("reason", sorted(RETRYABLE))
def test_an_attempt_with_a_retryable_reason_waits_until_the_skip_says(reason: Reason) -> None:
    assert after_skip(RESERVED, (), Skip(reason), NOW).attempt.next_at == NOW + timedelta(seconds=1)
    later = NOW + timedelta(seconds=9)
    assert after_skip(RESERVED, (), Skip(reason, later), NOW).attempt.next_at == later
    assert after_skip(RESERVED, (), Skip(reason, NOW), NOW).attempt.next_at == NOW + timedelta(milliseconds=500)


@pytest.mark.parametrize("reason", sorted(set(Reason) - RETRYABLE))
def test_an_attempt_that_has_made_nothing_ends(reason: Reason) -> None:
    ended = after_skip(RESERVED, (), Skip(reason), NOW).attempt
    assert (ended.state, ended.reason) == (State.CANCELED, reason)


@pytest.mark.parametrize("reason", sorted(set(Reason) - RETRYABLE))
def test_an_attempt_whose_payment_intent_exists_waits_or_is_cancelled_at_stripe(reason: Reason) -> None:
    after = after_skip(CHARGED_BEFORE, (), Skip(reason), NOW).attempt
    if reason in WAITED_FOR:
        assert (after.canceling, after.next_at) == (False, NOW + timedelta(seconds=60))
    else:
        assert (after.canceling, after.reason, after.state) == (True, reason, State.RETRY_SCHEDULED)


@pytest.mark.parametrize("reason", sorted(set(Reason) - RETRYABLE))
def test_a_key_in_doubt_is_kept_while_the_need_may_come_back(reason: Reason) -> None:
    after = after_skip(UNKNOWN, (IN_DOUBT,), Skip(reason), NOW).attempt
    assert after.canceling == (reason not in WAITED_FOR | OWN_KEY_KEPT)


def test_an_authentication_is_waited_for_until_its_owner_refuses_or_chooses_another_card() -> None:
    tries, profile = (IN_DOUBT,), _profile("pm_a")
    assert why_unwanted(None, tries, profile) is None
    for reason in Reason:
        expected = None if reason in STILL_WANTED else reason.value
        assert why_unwanted(Skip(reason), tries, profile) == expected
    assert why_unwanted(Skip(Reason.CAP_REACHED), tries, _profile("pm_b")) == "card_changed"
    assert why_unwanted(Skip(Reason.DISABLED), tries, _profile("pm_b")) == "disabled"


def test_a_request_that_is_charged_for_ends_as_attempted() -> None:
    charge = Charge(PACKAGE, limited_by_cap=False)
    assert request_outcome(REQUEST, charge, "att_1", NOW) == RequestOutcome("attempted", attempt="att_1")
    assert request_outcome(REQUEST, charge, None, NOW) is None, "another attempt was reserved first"


def test_a_request_expires_whatever_is_decided() -> None:
    expired = RequestOutcome("expired", reason=Reason.REQUEST_EXPIRED)
    assert request_outcome(REQUEST, Skip(Reason.INPUTS_STALE), None, REQUEST.expires_at) == expired
    assert request_outcome(REQUEST, Charge(PACKAGE, limited_by_cap=False), "att_1", REQUEST.expires_at) == expired


@pytest.mark.parametrize("reason", Reason)
def test_a_request_is_refused_at_once_after_a_while_or_never(reason: Reason) -> None:
    refused = RequestOutcome("refused", reason=reason)
    at_once = request_outcome(REQUEST, Skip(reason), None, NOW)
    later = request_outcome(REQUEST, Skip(reason), None, NOW + REQUEST_GRACE_PERIOD)
    assert at_once == (refused if reason in ANSWERS_REQUEST else None)
    assert later == (None if reason in REQUEST_WAITS_FOR else refused)


def test_the_summary_of_a_decision_names_the_reason_the_request_and_the_detail() -> None:
    assert summary_of(Charge(PACKAGE, limited_by_cap=False), "att_1", REQUEST) == "charge:att_1"
    assert summary_of(Skip(Reason.DISABLED), None, None) == "skip:disabled"
    assert summary_of(Skip(Reason.DISABLED), None, REQUEST) == "skip:disabled:req_1"
    assert summary_of(Skip(Reason.NO_CARD, detail="removed"), None, None) == "skip:no_card::removed"
    assert summary_of(Skip(Reason.NO_CARD, detail="removed"), None, REQUEST) == "skip:no_card:req_1:removed"
