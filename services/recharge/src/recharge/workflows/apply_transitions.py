"""Writes down what a move changes, in the caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from recharge.core.attempts import Attempt, State
from recharge.core.reconcile import after_credit
from recharge.core.transitions import Transition
from recharge.repository.attempts import save_attempts, save_tries, suspend
from recharge.repository.card_evidence import stop_card
from recharge.repository.inputs import answer_waiting_requests, save_payment_intents
from recharge.repository.other_payments import save_other_payments, take_other_payment
from recharge.repository.situations import need_is_served
from recharge.workflows.announcements import announce, raise_alert
from recharge.workflows.breakers import update_breakers
from shared.events import BillingProfile
from shared.outbox import Transaction


async def apply_transitions(
    transaction: Transaction,
    transitions: Sequence[tuple[Attempt, Transition]],
    now: datetime,
    *,
    profiles: Mapping[str, BillingProfile] | None = None,
    parameters: dict[str, Any] | None = None,
) -> list[Attempt]:
    """Writes moves of attempts that were loaded, and so locked, in this transaction, each with what it was before.
    Returns the attempts as they are then: one that has only now come to know its PaymentIntent may be credited already.

    `profiles` are needed where a move may suspend, `parameters` where it makes a new try.
    """
    connection = transaction.connection
    transitions = [
        (before, await _with_posted_credit(transaction, before, transition, now)) for before, transition in transitions
    ]
    await save_other_payments(
        connection,
        [
            {**asdict(transition.other_payment), "tenant_id": before.tenant_id, "attempt": before.attempt}
            for before, transition in transitions
            if transition.other_payment is not None
        ],
        now,
    )
    changed = [(before, transition) for before, transition in transitions if transition.attempt != before]
    await save_attempts(connection, [transition.attempt for _, transition in changed])
    await save_tries(
        connection, [(transition.attempt, one) for _, transition in transitions for one in transition.tries], parameters
    )
    await save_payment_intents(
        connection,
        [
            (transition.attempt.tenant_id, transition.attempt.payment_intent)
            for before, transition in changed
            if transition.attempt.payment_intent is not None and before.payment_intent is None
        ],
    )
    newly_credited = [
        transition.attempt
        for before, transition in changed
        if transition.attempt.state is State.CREDITED and before.state is not State.CREDITED
    ]
    await answer_waiting_requests(connection, (attempt.tenant_id for attempt in newly_credited))
    await need_is_served(
        connection,
        [
            {"tenant_id": attempt.tenant_id, "available": attempt.balance_available, "served_at": now}
            for attempt in newly_credited
            if attempt.trigger == "automatic"
        ],
    )
    for before, transition in transitions:
        if transition.attempt.version != before.version:
            announce(transaction, transition.attempt)
        if transition.alert is not None:
            raise_alert(transition.alert, transition.attempt)
        await _follow_up(transaction, transition, now, profiles or {})
    return [transition.attempt for _, transition in transitions]


async def _with_posted_credit(
    transaction: Transaction, before: Attempt, transition: Transition, now: datetime
) -> Transition:
    own = transition.attempt.payment_intent
    if own is None or before.payment_intent is not None:
        return transition
    is_credited = await take_other_payment(transaction.connection, before.tenant_id, own)
    return replace(transition, attempt=after_credit(transition.attempt, now).attempt) if is_credited else transition


async def _follow_up(
    transaction: Transaction, transition: Transition, now: datetime, profiles: Mapping[str, BillingProfile]
) -> None:
    connection, tenant = transaction.connection, transition.attempt.tenant_id
    if transition.stop_card is not None:
        stopped, reason = transition.stop_card, transition.attempt.reason or "declined"
        await stop_card(
            connection, tenant, card=stopped.card, payment_method=stopped.payment_method, reason=reason, now=now
        )
    if transition.suspend is not None:
        await suspend(connection, tenant, profiles[tenant], transition.suspend, now, cards=transition.suspend_cards)
    if transition.breaker is not None:
        await update_breakers(transaction, transition.attempt, transition.breaker, now)
