"""An answer about one call says nothing about an earlier call under the same key."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from recharge.core.answers import (
    UNPROVEN,
    Answer,
    CardUnusable,
    InProgress,
    NoAnswer,
    NotFound,
    OperatorError,
    RateLimited,
    Refused,
    ServerError,
)
from recharge.core.attempts import Attempt, Outcome, State
from recharge.core.next_action import NextAction, next_action
from recharge.core.reconcile import after_empty_list, after_reading
from recharge.core.transitions import Alert, BreakerSignal
from recharge.core.tries import after_answer, begin_try, repeat_try
from shared.events import Card

NOW = datetime(2026, 9, 15, 12, tzinfo=UTC)
CARDS = (
    Card(
        payment_method="pm_a", brand="visa", last4="4242", exp_month=1, exp_year=2030, fingerprint="a", usable=True
    ),
)  # fmt: skip
RESERVED = Attempt(
    tenant_id="acme", attempt="att_1", version=1, state=State.RESERVED, trigger="automatic", request=None,
    amount_minor=4_500, currency="usd", credits=1_000, package="medium", expires_in_days=None, limited_by_cap=False,
    stripe_customer="cus_1", profile_version=1, balance_available=10, created_at=NOW, changed_at=NOW, next_at=NOW,
)  # fmt: skip
NOT_EXECUTED: tuple[Answer, ...] = (
    CardUnusable("card_detached"),
    Refused("error"),
    OperatorError(401, "expired"),
    RateLimited(),
)


@pytest.mark.parametrize("answer", NOT_EXECUTED)
def test_a_call_that_was_not_executed_leaves_an_earlier_call_in_doubt(answer: Answer) -> None:
    begun = begin_try(RESERVED, (), CARDS, NOW)
    assert begun is not None
    lost = after_answer(begun.attempt, begun.tries, NoAnswer("time_out"), CARDS, was_in_doubt=False, now=NOW)
    again = repeat_try(lost.attempt, lost.tries[-1], NOW)
    answered = after_answer(again.attempt, again.tries, answer, CARDS, was_in_doubt=True, now=NOW)
    assert (answered.attempt.state, answered.tries[-1].outcome, answered.tries[-1].in_doubt) == (
        State.UNKNOWN,
        None,
        True,
    )
    assert next_action(answered.attempt, answered.tries, NOW) is NextAction.REPEAT_KEY


@pytest.mark.parametrize("answer", [RateLimited(), Refused("error"), OperatorError(401, "expired")])
def test_a_call_that_was_not_executed_is_made_again_under_the_same_key(answer: Answer) -> None:
    begun = begin_try(RESERVED, (), CARDS, NOW)
    assert begun is not None
    answered = after_answer(begun.attempt, begun.tries, answer, CARDS, was_in_doubt=False, now=NOW)
    assert next_action(answered.attempt, answered.tries, NOW) is NextAction.BEGIN
    again = begin_try(answered.attempt, answered.tries, CARDS, NOW)
    assert again is not None
    assert [one.idempotency_key for one in again.tries] == ["att_1:1"]


@pytest.mark.parametrize("answer", [NoAnswer("time_out"), ServerError(500), InProgress()])
def test_a_key_without_an_answer_is_replaced_only_after_24_hours_and_two_lists(answer: Answer) -> None:
    begun = begin_try(RESERVED, (), CARDS, NOW)
    assert begun is not None
    answered = after_answer(begun.attempt, begun.tries, answer, CARDS, was_in_doubt=False, now=NOW)
    assert next_action(answered.attempt, answered.tries, NOW + timedelta(hours=19)) is NextAction.REPEAT_KEY
    old = NOW + timedelta(hours=20)
    assert next_action(answered.attempt, answered.tries, old) is NextAction.LIST
    first = after_empty_list(answered.attempt, answered.tries, old, (), old)
    assert first.attempt.next_at == old + timedelta(minutes=10)
    second = after_empty_list(first.attempt, answered.tries, first.attempt.next_at, (), first.attempt.next_at)
    assert second.attempt.state is State.UNKNOWN
    assert second.attempt.next_at > NOW + timedelta(hours=24)
    last = after_empty_list(second.attempt, answered.tries, second.attempt.next_at, (), second.attempt.next_at)
    assert (last.attempt.state, last.tries[-1].outcome) == (State.RETRY_SCHEDULED, Outcome.NEVER_MADE)
    next_try = begin_try(last.attempt, last.tries, CARDS, last.attempt.next_at)
    assert next_try is not None
    assert [(one.idempotency_key, one.creates) for one in next_try.tries] == [("att_1:2", True)]


def test_an_empty_list_proves_nothing_about_later_payment_intents() -> None:
    begun = begin_try(RESERVED, (), CARDS, NOW)
    assert begun is not None
    answered = after_answer(begun.attempt, begun.tries, NoAnswer("time_out"), CARDS, was_in_doubt=False, now=NOW)
    first_asked_at, forgotten_at = NOW + timedelta(hours=23, minutes=40), NOW + timedelta(hours=24)
    later = forgotten_at + timedelta(hours=1)
    first = after_empty_list(answered.attempt, answered.tries, first_asked_at, (), later)
    assert first.attempt.not_found_at == first_asked_at
    too_early = after_empty_list(first.attempt, answered.tries, first_asked_at + timedelta(minutes=9), (), later)
    before_the_key_is_forgotten = after_empty_list(first.attempt, answered.tries, forgotten_at, (), later)
    for unproven in (too_early, before_the_key_is_forgotten):
        assert (unproven.attempt.state, unproven.tries) == (State.UNKNOWN, ())
    proven = after_empty_list(first.attempt, answered.tries, later, (), later)
    assert (proven.attempt.state, proven.tries[-1].outcome) == (State.RETRY_SCHEDULED, Outcome.NEVER_MADE)


def test_a_try_in_doubt_is_reconciled_before_the_next_try() -> None:
    begun = begin_try(RESERVED, (), CARDS, NOW)
    assert begun is not None
    state = replace(begun.attempt, state=State.RETRY_SCHEDULED)
    assert next_action(state, begun.tries, NOW) is NextAction.REPEAT_KEY
    with pytest.raises(AssertionError):
        begin_try(state, begun.tries, CARDS, NOW)


@pytest.mark.parametrize(
    ("answer", "is_list", "wait", "alert", "breaker"),
    [
        (NotFound(), True, timedelta(minutes=10), None, None),
        (NotFound(), False, timedelta(hours=1), Alert.PAYMENT_INTENT_GONE, None),
        (NoAnswer(UNPROVEN), True, timedelta(hours=1), Alert.UNPROVEN_PAYMENT_INTENT, None),
        (NoAnswer("time_out"), True, timedelta(seconds=16), None, None),
        (RateLimited(), False, timedelta(seconds=16), None, None),
        (OperatorError(401, "expired"), False, timedelta(seconds=16), None, BreakerSignal.OPEN),
    ],
)
def test_a_list_or_retrieval_without_a_payment_intent_is_repeated(
    answer: Answer, is_list: bool, wait: timedelta, alert: Alert | None, breaker: BreakerSignal | None
) -> None:
    begun = begin_try(RESERVED, (), CARDS, NOW)
    assert begun is not None
    transition = after_reading(begun.attempt, begun.tries, answer, CARDS, is_list=is_list, asked_at=NOW, now=NOW)
    assert (transition.attempt.state, transition.attempt.next_at) == (State.CHARGING, NOW + wait)
    assert (transition.tries, transition.alert, transition.breaker) == ((), alert, breaker)
