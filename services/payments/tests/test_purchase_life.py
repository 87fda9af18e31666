"""A purchase ends the same whatever order Stripe's words come in, and only a retrieval breaks a tie."""

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.core.purchases import (
    CREDITED_WITHIN,
    FOLLOW_EVERY,
    KEY_TRUSTED_FOR,
    OPEN_FOR,
    Observation,
    Progress,
    PurchaseState,
    Source,
    Step,
    is_same_for_recharge,
    next_step,
    observe,
)

OPENED = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
NOW = OPENED + timedelta(minutes=1)
CREATED = Progress(PurchaseState.CREATED, None, None, None, None, None)
#: Stripe has answered the call that made its PaymentIntent.
MADE = Progress(PurchaseState.OPEN, "pi_1", "requires_payment_method", None, None, None)


def event(status: str, second: int, intent: str = "pi_1", decline: str | None = None) -> Observation:
    return Observation(Source.EVENT, intent, status, decline, OPENED + timedelta(seconds=second))


def answer(status: str, source: Source = Source.ANSWER) -> Observation:
    return Observation(source, "pi_1", status, None)


def after(*seen: Observation, start: Progress = MADE) -> Progress:
    progress = start
    for each in seen:
        progress = observe(progress, each, opened_at=OPENED, now=NOW)
    return progress


STORY = [
    event("requires_payment_method", 1, decline="generic_decline"),
    event("requires_action", 2),
    event("processing", 3),
    event("succeeded", 4),
]


@pytest.mark.parametrize("order", list(permutations(STORY)))
def test_succeeded_absorbs_in_any_order(order: tuple[Observation, ...]) -> None:
    progress = after(*order)
    assert (progress.state, progress.payment_intent) == (PurchaseState.SUCCEEDED, "pi_1")
    assert progress.look_at == NOW + CREDITED_WITHIN


@given(st.permutations([*STORY[:3], *STORY[:3], event("canceled", 5)]))
def test_canceled_absorbs_in_any_order_and_duplicated(order: list[Observation]) -> None:
    assert after(*order).state is PurchaseState.CANCELED


@given(st.permutations(STORY[:3] * 2))
def test_otherwise_the_newest_word_wins_in_any_order_and_duplicated(order: list[Observation]) -> None:
    progress = after(*order)
    assert (progress.state, progress.status) == (PurchaseState.PROCESSING, "processing")
    assert progress.look_at == NOW + FOLLOW_EVERY


def test_money_that_came_in_counts_even_for_a_canceled_purchase() -> None:
    canceled = after(event("canceled", 5))
    assert after(event("succeeded", 3), start=canceled).state is PurchaseState.SUCCEEDED


def test_another_payment_intent_changes_nothing() -> None:
    open_ = after(event("requires_action", 1))
    others = [event(status, 9, "pi_2") for status in ("canceled", "processing", "succeeded")]
    assert after(*others, start=open_) is open_
    assert after(event("succeeded", 9), start=open_).payment_intent != "pi_2"


def test_an_event_does_not_say_which_payment_intent_is_the_purchases() -> None:
    for status in ("requires_payment_method", "requires_action", "processing", "canceled"):
        assert after(event(status, 1), start=CREATED) is CREATED
    assert after(event("succeeded", 1), start=CREATED).state is PurchaseState.SUCCEEDED, "that credits its order"
    for source in (Source.ANSWER, Source.RETRIEVED):
        assert after(answer("requires_action", source), start=CREATED).payment_intent == "pi_1"


def test_a_tie_is_for_a_retrieval_to_break() -> None:
    tied = after(event("requires_action", 2), event("processing", 2))
    assert (tied.status, tied.look_at) == ("requires_action", NOW)
    assert after(answer("processing", Source.RETRIEVED), start=tied).state is PurchaseState.PROCESSING


def test_an_answer_of_unknown_age_is_not_believed_over_an_event() -> None:
    open_ = after(event("processing", 3))
    doubted = after(answer("requires_payment_method"), start=open_)
    assert (doubted.state, doubted.look_at) == (PurchaseState.PROCESSING, NOW)
    assert after(answer("succeeded"), start=open_).state is PurchaseState.SUCCEEDED


def test_unknown_statuses_change_nothing() -> None:
    open_ = after(event("requires_action", 1))
    assert after(event("some_new_status", 9), start=open_) is open_


@pytest.mark.parametrize(
    ("progress", "age", "step"),
    [
        (CREATED, timedelta(minutes=1), Step.CREATE_AGAIN),
        (CREATED, timedelta(hours=1), Step.CREATE_AGAIN),
        (CREATED, KEY_TRUSTED_FOR, Step.FIND),
        (after(event("requires_action", 1)), timedelta(minutes=5), Step.RETRIEVE),
        (after(event("requires_action", 1)), OPEN_FOR, Step.CANCEL),
        (after(event("processing", 1)), timedelta(hours=5), Step.RETRIEVE),
    ],
)
def test_the_sweeper_creates_again_follows_or_cancels(progress: Progress, age: timedelta, step: Step) -> None:
    assert next_step(progress, opened_at=OPENED, state_since=OPENED, is_in_the_way=False, now=OPENED + age) is step


@pytest.mark.parametrize(
    ("progress", "minutes", "is_in_the_way", "step"),
    [
        (after(event("requires_payment_method", 1)), 4, True, Step.RETRIEVE),
        (after(event("requires_payment_method", 1)), 5, True, Step.CANCEL),
        (after(event("requires_payment_method", 1)), 5, False, Step.RETRIEVE),
        (after(event("processing", 1)), 25, True, Step.RETRIEVE),
        (after(event("succeeded", 1)), 25, True, Step.RETRIEVE),
        (CREATED, 25, True, Step.CREATE_AGAIN),
    ],
)
def test_what_was_left_open_in_a_recharges_way_is_cancelled_after_five_minutes(
    progress: Progress, minutes: int, is_in_the_way: bool, step: Step
) -> None:
    now = OPENED + timedelta(minutes=25)
    since = now - timedelta(minutes=minutes)
    assert next_step(progress, opened_at=OPENED, state_since=since, is_in_the_way=is_in_the_way, now=now) is step


def test_recharge_is_told_when_a_payer_tries_and_not_that_the_payment_intent_was_made() -> None:
    open_ = after(event("requires_payment_method", 1))
    assert is_same_for_recharge(CREATED, open_)
    assert is_same_for_recharge(open_, open_)
    assert not is_same_for_recharge(open_, after(event("requires_action", 2)))
    assert not is_same_for_recharge(open_, after(event("requires_payment_method", 2, decline="card_declined")))
    assert not is_same_for_recharge(open_, after(event("processing", 2)))
