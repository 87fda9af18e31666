"""Writes the transitions of attempts and everything that follows from them, in the caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from recharge.core.attempts import Attempt, State
from recharge.core.ledger_entries import after_credit
from recharge.core.transitions import Transition
from recharge.repository.attempts import save_attempts, save_tries
from recharge.repository.balances import save_served_need
from recharge.repository.cards import stop_card
from recharge.repository.other_payments import save_other_payments, take_other_payment
from recharge.repository.payment_intents import save_payment_intents
from recharge.repository.profiles import suspend
from recharge.repository.requests import answer_waiting_requests
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
    """Writes transitions of attempts that were loaded, and so locked, in this transaction: each with the attempt before
    it. Returns the attempts after them: one whose PaymentIntent has become known may be credited already.

    `profiles` are needed where a transition may suspend, `parameters` where it makes a new try.
    """
    connection = transaction.connection
    transitions = [(before, await _with_posted_credit(transaction, before, each, now)) for before, each in transitions]
    await save_other_payments(
        connection,
        [
            {**asdict(each.other_payment), "tenant_id": before.tenant_id, "attempt": before.attempt}
            for before, each in transitions
            if each.other_payment is not None
        ],
        now,
    )
    changed = [(before, each) for before, each in transitions if each.attempt != before]
    await save_attempts(connection, [each.attempt for _, each in changed])
    await save_tries(connection, [(each.attempt, one) for _, each in transitions for one in each.tries], parameters)
    await save_payment_intents(
        connection,
        [
            (each.attempt.tenant_id, each.attempt.payment_intent)
            for before, each in changed
            if each.attempt.payment_intent is not None and before.payment_intent is None
        ],
    )
    newly_credited = [
        each.attempt
        for before, each in changed
        if each.attempt.state is State.CREDITED and before.state is not State.CREDITED
    ]
    await answer_waiting_requests(connection, (attempt.tenant_id for attempt in newly_credited))
    await save_served_need(
        connection,
        [
            {"tenant_id": attempt.tenant_id, "available": attempt.balance_available, "served_at": now}
            for attempt in newly_credited
            if attempt.trigger == "automatic"
        ],
    )
    for before, each in transitions:
        if each.attempt.version != before.version:
            announce(transaction, each.attempt)
        if each.alert is not None:
            raise_alert(each.alert, each.attempt)
        await _stop_and_suspend(transaction, each, now, profiles or {})
        if each.breaker is not None:
            await update_breakers(transaction, each.attempt, each.breaker, now)
    return [each.attempt for _, each in transitions]


async def _with_posted_credit(
    transaction: Transaction, before: Attempt, transition: Transition, now: datetime
) -> Transition:
    own = transition.attempt.payment_intent
    if own is None or before.payment_intent is not None:
        return transition
    is_credited = await take_other_payment(transaction.connection, before.tenant_id, own)
    return replace(transition, attempt=after_credit(transition.attempt, now).attempt) if is_credited else transition


async def _stop_and_suspend(
    transaction: Transaction, transition: Transition, now: datetime, profiles: Mapping[str, BillingProfile]
) -> None:
    connection, tenant = transaction.connection, transition.attempt.tenant_id
    if transition.stop_card_of is not None:
        stopped, reason = transition.stop_card_of, transition.attempt.reason or "declined"
        await stop_card(
            connection, tenant, card=stopped.card, payment_method=stopped.payment_method, reason=reason, now=now
        )
    if transition.suspend is not None:
        await suspend(connection, tenant, profiles[tenant], transition.suspend, now, cards=transition.suspend_cards)
