"""Whether a declined card is tried again, and when."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from recharge.core.attempts import Attempt, Outcome, State, Try
from recharge.core.declines import RETRY_DELAYS, TRIES_MAX, DeclineCodes, Verdict, after_decline, verdict_of
from shared.events import Card

NOW = datetime(2026, 9, 15, 12, tzinfo=UTC)
CARD = Card(payment_method="pm_a", brand="visa", last4="4242", exp_month=1, exp_year=2030, fingerprint="a", usable=True)
OTHER_CARD = CARD.model_copy(update={"payment_method": "pm_b", "fingerprint": "b"})
CHARGING = Attempt(
    tenant_id="acme", attempt="att_1", version=2, state=State.CHARGING, trigger="automatic", request=None,
    amount_minor=4_500, currency="usd", credits=1_000, package="medium", expires_in_days=None, limited_by_cap=False,
    stripe_customer="cus_1", profile_version=1, balance_available=10, created_at=NOW, changed_at=NOW, next_at=NOW,
    payment_intent="pi_1", n=1,
)  # fmt: skip
TRY = Try(
    n=1, payment_method="pm_a", fingerprint="a", idempotency_key="att_1:1", creates=True, first_called_at=NOW, calls=1,
    in_doubt=False,
)  # fmt: skip
DECLINED = DeclineCodes("card_declined", "insufficient_funds", None)


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        (DECLINED, Verdict.LATER),
        (DeclineCodes(None, None, None), Verdict.LATER),
        (DeclineCodes("card_declined", "stolen_card", None), Verdict.NEVER_AGAIN),
        (DeclineCodes("card_declined", "do_not_honor", "do_not_try_again"), Verdict.NEVER_AGAIN),
        (DeclineCodes("expired_card", None, None), Verdict.NOT_IN_THIS_ATTEMPT),
        (DeclineCodes("card_declined", "do_not_honor", "confirm_card_data"), Verdict.NOT_IN_THIS_ATTEMPT),
        (DeclineCodes("authentication_required", None, "do_not_try_again"), Verdict.AUTHENTICATE),
    ],
)
def test_a_decline_says_whether_the_card_may_be_tried_again(codes: DeclineCodes, verdict: Verdict) -> None:
    assert verdict_of(codes) is verdict


@pytest.mark.parametrize(("rounds", "delay"), list(enumerate(RETRY_DELAYS)))
def test_the_same_card_is_tried_again_after_the_next_delay(rounds: int, delay: timedelta) -> None:
    transition = after_decline(replace(CHARGING, rounds=rounds), (TRY,), DECLINED, (CARD,), NOW)
    after = transition.attempt
    assert (after.state, after.reason) == (State.RETRY_SCHEDULED, "insufficient_funds")
    assert (after.next_at, after.rounds) == (NOW + delay, rounds + 1)
    assert (transition.tries[-1].outcome, transition.suspend, transition.stop_card_of) == (Outcome.DECLINED, None, None)


def test_another_card_is_tried_at_once() -> None:
    after = after_decline(CHARGING, (TRY,), DECLINED, (OTHER_CARD,), NOW).attempt
    assert (after.state, after.next_at, after.rounds) == (State.RETRY_SCHEDULED, NOW, 0)


@pytest.mark.parametrize("attempt", [replace(CHARGING, rounds=len(RETRY_DELAYS)), CHARGING])
def test_the_attempt_is_given_up_after_the_last_delay_or_try(attempt: Attempt) -> None:
    tries = (TRY,) if attempt.rounds else (replace(TRY, outcome=Outcome.DECLINED),) * (TRIES_MAX - 1) + (TRY,)
    transition = after_decline(attempt, tries, DECLINED, (CARD,), NOW)
    after = transition.attempt
    assert (after.state, after.canceling, after.action_required) == (State.DECLINED, True, "new_card")
    assert transition.suspend == "insufficient_funds"


def test_a_card_that_will_never_pay_is_stopped_and_not_tried_again() -> None:
    stolen = DeclineCodes("card_declined", "stolen_card", None)
    transition = after_decline(CHARGING, (TRY,), stolen, (CARD,), NOW)
    assert (transition.attempt.state, transition.stop_card_of, transition.suspend) == (
        State.DECLINED,
        TRY,
        "stolen_card",
    )


def test_an_attempt_that_is_being_cancelled_is_not_tried_again() -> None:
    transition = after_decline(replace(CHARGING, canceling=True), (TRY,), DECLINED, (CARD, OTHER_CARD), NOW)
    assert (transition.attempt.state, transition.attempt.canceling) == (State.CHARGING, True)
