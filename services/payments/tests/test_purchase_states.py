"""A purchase's state does not depend on the order of Stripe's events, and only a retrieval breaks a tie."""

from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payments.core.purchases import (
    CREDITED_WITHIN,
    KEY_TRUSTED_FOR,
    OPEN_FOR,
    RETRIEVE_EVERY,
    Observation,
    Progress,
    PurchaseState,
    Source,
    Step,
    apply_observation,
    next_step,
    progress_changes_profile,
)

OPENED = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)
NOW = OPENED + timedelta(minutes=1)
CREATED = Progress(PurchaseState.CREATED, None, None, None, None, None)
#: The response to the call that created its PaymentIntent is recorded.
WITH_PAYMENT_INTENT = Progress(PurchaseState.OPEN, "pi_1", "requires_payment_method", None, None, None)


def event(status: str, second: int, intent: str = "pi_1", decline: str | None = None) -> Observation:
    return Observation(Source.EVENT, intent, status, decline, OPENED + timedelta(seconds=second))


def answer(status: str, source: Source = Source.RESPONSE) -> Observation:
    return Observation(source, "pi_1", status, None)


def after(*seen: Observation, start: Progress = WITH_PAYMENT_INTENT) -> Progress:
    progress = start
    for each in seen:
        progress = apply_observation(progress, each, opened_at=OPENED, now=NOW)
    return progress


EVENTS = [
    event("requires_payment_method", 1, decline="generic_decline"),
    event("requires_action", 2),
    event("processing", 3),
    event("succeeded", 4),
]


@pytest.mark.parametrize("order", list(permutations(EVENTS)))
def test_succeeded_is_final_in_any_order(order: tuple[Observation, ...]) -> None:
    progress = after(*order)
    assert (progress.state, progress.payment_intent) == (PurchaseState.SUCCEEDED, "pi_1")
    assert progress.look_at == NOW + CREDITED_WITHIN


@given(st.permutations([*EVENTS[:3], *EVENTS[:3], event("canceled", 5)]))
def test_canceled_is_final_in_any_order_and_duplicated(order: list[Observation]) -> None:
    assert after(*order).state is PurchaseState.CANCELED


@given(st.permutations(EVENTS[:3] * 2))
def test_otherwise_the_newest_event_wins_in_any_order_and_duplicated(order: list[Observation]) -> None:
    progress = after(*order)
    assert (progress.state, progress.status) == (PurchaseState.PROCESSING, "processing")
    assert progress.look_at == NOW + RETRIEVE_EVERY


def test_a_canceled_purchase_that_was_paid_succeeds() -> None:
    canceled = after(event("canceled", 5))
    assert after(event("succeeded", 3), start=canceled).state is PurchaseState.SUCCEEDED


def test_another_payment_intent_changes_nothing() -> None:
    open_ = after(event("requires_action", 1))
    others = [event(status, 9, "pi_2") for status in ("canceled", "processing", "succeeded")]
    assert after(*others, start=open_) is open_
    assert after(event("succeeded", 9), start=open_).payment_intent != "pi_2"


def test_only_a_response_sets_the_payment_intent_unless_an_event_says_paid() -> None:
    for status in ("requires_payment_method", "requires_action", "processing", "canceled"):
        assert after(event(status, 1), start=CREATED) is CREATED
    assert after(event("succeeded", 1), start=CREATED).state is PurchaseState.SUCCEEDED, "the ledger credits it"
    for source in (Source.RESPONSE, Source.RETRIEVED):
        assert after(answer("requires_action", source), start=CREATED).payment_intent == "pi_1"


def test_a_tie_needs_a_retrieval() -> None:
    tied = after(event("requires_action", 2), event("processing", 2))
    assert (tied.status, tied.look_at) == ("requires_action", NOW)
    assert after(answer("processing", Source.RETRIEVED), start=tied).state is PurchaseState.PROCESSING


def test_a_response_of_unknown_age_does_not_replace_an_event() -> None:
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
def test_the_next_step_depends_on_progress_and_age(progress: Progress, age: timedelta, step: Step) -> None:
    assert next_step(progress, opened_at=OPENED, state_since=OPENED, blocks_recharge=False, now=OPENED + age) is step


@pytest.mark.parametrize(
    ("progress", "minutes", "blocks_recharge", "step"),
    [
        (after(event("requires_payment_method", 1)), 4, True, Step.RETRIEVE),
        (after(event("requires_payment_method", 1)), 5, True, Step.CANCEL),
        (after(event("requires_payment_method", 1)), 5, False, Step.RETRIEVE),
        (after(event("processing", 1)), 25, True, Step.RETRIEVE),
        (after(event("succeeded", 1)), 25, True, Step.RETRIEVE),
        (CREATED, 25, True, Step.CREATE_AGAIN),
    ],
)
def test_a_purchase_that_blocks_a_recharge_is_canceled_after_five_minutes(
    progress: Progress, minutes: int, blocks_recharge: bool, step: Step
) -> None:
    now = OPENED + timedelta(minutes=25)
    since = now - timedelta(minutes=minutes)
    assert next_step(progress, opened_at=OPENED, state_since=since, blocks_recharge=blocks_recharge, now=now) is step


def test_the_profile_changes_with_each_try_to_pay_and_not_with_the_payment_intent() -> None:
    open_ = after(event("requires_payment_method", 1))
    assert not progress_changes_profile(CREATED, open_)
    assert not progress_changes_profile(open_, open_)
    assert progress_changes_profile(open_, after(event("requires_action", 2)))
    assert progress_changes_profile(open_, after(event("requires_payment_method", 2, decline="card_declined")))
    assert progress_changes_profile(open_, after(event("processing", 2)))
