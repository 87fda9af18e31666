"""Writes down what a move changes, in the caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from recharge.announcing import announce, sound
from recharge.breaking import follow_up_breaker
from recharge.core.attempts import Attempt, State
from recharge.core.find_out import credited
from recharge.core.moves import Move
from recharge.repository.attempts import save_attempts, save_tries, suspend
from recharge.repository.card_evidence import stop_card
from recharge.repository.inputs import answer_waiting_requests, save_payment_intents
from recharge.repository.other_payments import save_other_payments, take_other_payment
from recharge.repository.situations import need_is_served
from shared.events import BillingProfile
from shared.outbox import Transaction


async def write_moves(
    transaction: Transaction,
    moves: Sequence[tuple[Attempt, Move]],
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
    moves = [(before, await _with_posted_credit(transaction, before, move, now)) for before, move in moves]
    await save_other_payments(
        connection,
        [
            {**asdict(move.other_payment), "tenant_id": before.tenant_id, "attempt": before.attempt}
            for before, move in moves
            if move.other_payment is not None
        ],
        now,
    )
    changed = [(before, move) for before, move in moves if move.attempt != before]
    await save_attempts(connection, [move.attempt for _, move in changed])
    await save_tries(connection, [(move.attempt, one) for _, move in moves for one in move.tries], parameters)
    await save_payment_intents(
        connection,
        [
            (move.attempt.tenant_id, move.attempt.payment_intent)
            for before, move in changed
            if move.attempt.payment_intent is not None and before.payment_intent is None
        ],
    )
    newly_credited = [
        move.attempt
        for before, move in changed
        if move.attempt.state is State.CREDITED and before.state is not State.CREDITED
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
    for before, move in moves:
        if move.attempt.version != before.version:
            announce(transaction, move.attempt)
        if move.alert is not None:
            sound(move.alert, move.attempt)
        await _follow_up(transaction, move, now, profiles or {})
    return [move.attempt for _, move in moves]


async def _with_posted_credit(transaction: Transaction, before: Attempt, move: Move, now: datetime) -> Move:
    own = move.attempt.payment_intent
    if own is None or before.payment_intent is not None:
        return move
    is_credited = await take_other_payment(transaction.connection, before.tenant_id, own)
    return replace(move, attempt=credited(move.attempt, now).attempt) if is_credited else move


async def _follow_up(
    transaction: Transaction, move: Move, now: datetime, profiles: Mapping[str, BillingProfile]
) -> None:
    connection, tenant = transaction.connection, move.attempt.tenant_id
    if move.stop_card is not None:
        stopped, reason = move.stop_card, move.attempt.reason or "declined"
        await stop_card(
            connection, tenant, card=stopped.card, payment_method=stopped.payment_method, reason=reason, now=now
        )
    if move.suspend is not None:
        await suspend(connection, tenant, profiles[tenant], move.suspend, now, cards=move.suspend_cards)
    if move.breaker is not None:
        await follow_up_breaker(transaction, move.attempt, move.breaker, now)
