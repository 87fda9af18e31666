"""One step of one attempt: prepare in a transaction, ask Stripe in none, write the answer down in another.

prepare ─▶ commit ─▶ (recharge.try_committed) ─▶ Stripe ─▶ (recharge.stripe_answered) ─▶ write down
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, assert_never

from prometheus_client import Counter, Histogram
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from recharge.breaking import has_passage
from recharge.charging.calls import Call, Cancel, Charge, Find, Retrieve, charge_parameters, make
from recharge.charging.pace import Pace
from recharge.core.answers import Answer, IntentSeen, NoAnswer, NotFound, OperatorError
from recharge.core.attempts import Asked, Attempt, State, Try
from recharge.core.cards import chargeable
from recharge.core.charge import answered, begin, call_again
from recharge.core.decide import PROBE_LOOKED_AT_EVERY, Reason, Situation, Skip, may_charge
from recharge.core.find_out import (
    Question,
    found_unproven,
    gone,
    is_of_another_card,
    list_window,
    next_question,
    not_found,
    reconsidered,
)
from recharge.core.follow import follow, give_up
from recharge.core.moves import LEASE, Breaker, Move, asked_again_at
from recharge.core.proof import NOTHING_NAMED, is_of, may_be_of, proven
from recharge.core.refusals import is_stopped
from recharge.deciding import decide_about
from recharge.moving import write_moves
from recharge.repository.attempts import claim_attempt, load_attempts, load_parameters, load_tries
from recharge.repository.other_payments import payments_named
from recharge.repository.situations import load_situations, lock_for_charging
from recharge.stripe_gateway import UNPROVEN, StripeGateway
from shared.faults import fault_point
from shared.logs import get_logger
from shared.outbox import Outbox, Transaction

log = get_logger()

#: Refusals that pass by themselves within moments: the attempt waits.
_PASSING = frozenset([Reason.INPUTS_STALE, Reason.BREAKER_OPEN])
#: Refusals that may pass: an attempt whose PaymentIntent may exist waits for them, one that has made nothing ends.
_WAITED_FOR = frozenset(
    [
        Reason.BALANCE_OLDER_THAN_CREDIT, Reason.BALANCE_UNKNOWN, Reason.OPEN_PURCHASE,
        Reason.PURCHASE_LEFT_OPEN, Reason.DISPUTE_OPEN, Reason.RECEIVABLE_OPEN, Reason.FROZEN,
    ]
)  # fmt: skip
_WAIT = timedelta(seconds=60)
#: A tenant's authentication is no longer waited for when its owner refuses or the need is gone.
_STILL_WANTED = frozenset(
    [
        *_PASSING, *_WAITED_FOR, Reason.NO_CARD, Reason.CARD_STOPPED, Reason.CAP_REACHED, Reason.SUSPENDED,
        Reason.REQUEST_EXPIRED,
    ]
)  # fmt: skip

_calls = Counter("recharge_stripe_calls_total", "Calls to Stripe.", ["call", "answer"])
_reserved_to_asked_s = Histogram(
    "recharge_reserved_to_asked_seconds",
    "From the decision to the first call to Stripe.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30),
)


@dataclass(frozen=True, slots=True)
class Steps:
    """Takes attempts one step further."""

    engine: AsyncEngine
    outbox: Outbox
    gateway: StripeGateway
    pace: Pace
    #: The first signs, all verify.
    signing_keys: Sequence[str]

    async def take(self, tenant: str, attempt: str) -> None:
        """One step of this attempt, if it is due and nobody else is at it."""
        async with self.outbox.transaction(self.engine) as transaction:
            leased_at = transaction.now
            call = await self._prepare(transaction, tenant, attempt, leased_at)
        if call is None:
            return
        await fault_point("recharge.try_committed")
        await self.pace.turn()
        asked_at = await self.outbox.now(self.engine)
        if asked_at >= leased_at + LEASE:
            # Its turn came late, or this process slept: another may have found out by now, and forgotten the key.
            log.warning("lease_ran_out_before_the_call", tenant=tenant, attempt=attempt, n=call.asked.n)
            return
        answer = await make(call, self.gateway, self.pace)
        await fault_point("recharge.stripe_answered")
        _calls.labels(call.what.label, answer.label).inc()
        log.info(
            "stripe_answered", tenant=tenant, attempt=attempt, n=call.asked.n, call=call.what.label, answer=answer.label
        )
        async with self.outbox.transaction(self.engine) as transaction:
            await self._write_down(transaction, call, answer, asked_at, transaction.now)

    async def _prepare(self, transaction: Transaction, tenant: str, name: str, now: datetime) -> Call | None:
        connection = transaction.connection
        await lock_for_charging(connection, tenant)
        attempt = await claim_attempt(connection, tenant, name)
        if attempt is None or attempt.has_ended or attempt.next_at > now:
            return None
        tries = (await load_tries(connection, [attempt]))[name] if attempt.n > 0 else tuple[Try, ...]()
        question = next_question(attempt, tries, now)
        match question:
            case Question.BEGIN:
                return await self._begin(transaction, attempt, tries, now)
            case Question.RECONSIDER:
                await _reconsider(transaction, attempt, tries, now)
                return None
            case Question.REPEAT_KEY:
                return await self._repeat_key(transaction, attempt, tries, now)
            case Question.NOTHING:
                return None
            case Question.RETRIEVE | Question.LIST | Question.CANCEL:
                leased = Move(replace(attempt, next_at=now + LEASE))
                await write_moves(transaction, [(attempt, leased)], now)
                return _call(attempt, tries, await self._look(connection, question, attempt, tries))
        assert_never(question)

    async def _begin(
        self, transaction: Transaction, attempt: Attempt, tries: Sequence[Try], now: datetime
    ) -> Call | None:
        """The one transaction that decides, under the tenant's lock, that a card is charged now."""
        connection = transaction.connection
        situation = await _situation(connection, attempt, now)
        if await _is_refused(transaction, situation, attempt, tries, now):
            return None
        move = begin(attempt, tries, chargeable(situation.profile, situation.stopped_cards), now)
        profiles = {attempt.tenant_id: situation.profile}
        if move is None:
            told = replace(attempt, action_required="new_card")
            end = replace(give_up(told, tries, Reason.NO_CARD, now, state=State.DECLINED), suspend=Reason.NO_CARD)
            await write_moves(transaction, [(attempt, end)], now, profiles=profiles)
            return None
        calling = move.tries[-1]
        is_new = all(one.n != calling.n for one in tries)
        parameters = charge_parameters(attempt, calling, self.signing_keys[0]) if is_new else None
        obeying = replace(move, attempt=replace(move.attempt, profile_version=situation.profile.version))
        await write_moves(transaction, [(attempt, obeying)], now, parameters=parameters)
        if attempt.n == 0:
            _reserved_to_asked_s.observe((now - attempt.created_at).total_seconds())
        return _call(
            obeying.attempt,
            move.tries,
            Charge(calling, parameters or await load_parameters(connection, obeying.attempt), doubted=False),
        )

    async def _repeat_key(
        self, transaction: Transaction, attempt: Attempt, tries: Sequence[Try], now: datetime
    ) -> Call | None:
        """Where no call under the key was executed this one is the charge, so it has to be allowed like the first."""
        connection = transaction.connection
        situation = await _situation(connection, attempt, now)
        if await _is_refused(transaction, situation, attempt, tries, now):
            return None
        cards = chargeable(situation.profile, situation.stopped_cards)
        if all(card.payment_method != tries[-1].payment_method for card in cards):
            # The key's own card was removed: what the key has made is looked for and cancelled, never charged.
            move = give_up(attempt, tries, "card_removed", now)
            await write_moves(transaction, [(attempt, move)], now)
            return None
        move = call_again(attempt, tries[-1], now)
        await write_moves(transaction, [(attempt, move)], now)
        parameters = await load_parameters(connection, attempt)
        return _call(attempt, move.tries, Charge(move.tries[-1], parameters, doubted=True))

    async def _look(
        self, connection: AsyncConnection, question: Question, attempt: Attempt, tries: Sequence[Try]
    ) -> Retrieve | Find | Cancel:
        if attempt.payment_intent is None:
            named = await payments_named(connection, attempt.tenant_id, attempt.attempt)
            return Find(
                list_window(attempt, tries),
                lambda view: is_of(attempt, view, self.signing_keys, named),
                lambda view: may_be_of(attempt, view, named),
                named,
            )
        return Cancel(attempt.payment_intent) if question is Question.CANCEL else Retrieve(attempt.payment_intent)

    async def _write_down(
        self, transaction: Transaction, call: Call, answer: Answer, asked_at: datetime, now: datetime
    ) -> None:
        connection = transaction.connection
        await lock_for_charging(connection, call.tenant)
        attempt = (await load_attempts(connection, [call.attempt]))[call.attempt]
        tries = (await load_tries(connection, [attempt]))[call.attempt]
        if Asked.of(attempt, tries) != call.asked:
            log.info("answer_came_late", tenant=call.tenant, attempt=call.attempt, state=attempt.state.value)
            return
        named = call.what.named if isinstance(call.what, Find) else NOTHING_NAMED
        answer = proven(attempt, answer, self.signing_keys, named)
        situation = await _situation(connection, attempt, now)
        cards = chargeable(situation.profile, situation.stopped_cards)
        match call.what:
            case Charge(doubted=doubted):
                if tries[-1].outcome is not None:
                    return
                is_refused_to_others = is_stopped(situation.stopped, attempt.package, attempt.currency)
                move = answered(
                    attempt, tries, answer, cards,
                    doubted=doubted, now=now, is_refused_to_others=is_refused_to_others,
                )  # fmt: skip
            case _ if isinstance(answer, IntentSeen):
                move = follow(attempt, tries, answer.view, cards, now)
            case Find() if isinstance(answer, NotFound):
                move = not_found(attempt, tries, asked_at, cards, now)
            case Find() if answer == NoAnswer(UNPROVEN):
                move = found_unproven(attempt, now)
            case _ if isinstance(answer, NotFound):
                move = gone(attempt, now)
            case _:
                waiting = replace(attempt, next_at=asked_again_at(4, now))
                move = Move(waiting, breaker=Breaker.OPEN if isinstance(answer, OperatorError) else None)
        [after] = await write_moves(transaction, [(attempt, move)], now, profiles={call.tenant: situation.profile})
        if after.has_ended:
            await decide_about(transaction, [call.tenant], now)


def _call(attempt: Attempt, tries: Sequence[Try], what: Charge | Retrieve | Find | Cancel) -> Call:
    asked = Asked.of(attempt, tries)
    return Call(attempt.tenant_id, attempt.attempt, asked, attempt.stripe_customer, attempt.payment_intent, what)


async def _situation(connection: AsyncConnection, attempt: Attempt, now: datetime) -> Situation:
    loaded = await load_situations(connection, [attempt.tenant_id], now, leaving_out_attempt=attempt.attempt)
    return loaded[0].situation


async def _is_refused(
    transaction: Transaction, situation: Situation, attempt: Attempt, tries: Sequence[Try], now: datetime
) -> bool:
    """Whether the card must not be charged now; then the attempt waits, ends or is found out, as is written down."""
    refusal = may_charge(situation, attempt, now)
    is_half_open = situation.breaker_is_half_open or is_stopped(situation.stopped, attempt.package, attempt.currency)
    if refusal is None and is_half_open:
        may_pass = await has_passage(transaction, attempt, now)
        refusal = None if may_pass else Skip(Reason.BREAKER_OPEN, now + PROBE_LOOKED_AT_EVERY)
    if refusal is not None:
        await _refuse(transaction, attempt, tries, refusal, now)
    return refusal is not None


async def _refuse(
    transaction: Transaction, attempt: Attempt, tries: Sequence[Try], refusal: Skip, now: datetime
) -> None:
    may_be_made = attempt.payment_intent is not None or any(one.in_doubt for one in tries)
    if refusal.reason in _PASSING:
        at = refusal.look_again_at or now + timedelta(seconds=1)
        move = Move(replace(attempt, next_at=max(at, now + timedelta(milliseconds=500))))
    elif may_be_made and (refusal.reason in _WAITED_FOR or _is_key_kept(attempt, refusal)):
        move = Move(replace(attempt, next_at=now + _WAIT))
    else:
        move = give_up(attempt, tries, refusal.reason, now)
    await write_moves(transaction, [(attempt, move)], now)
    if move.attempt.has_ended:
        await decide_about(transaction, [attempt.tenant_id], now)


def _is_key_kept(attempt: Attempt, refusal: Skip) -> bool:
    """Whether a key in doubt is not given up: where credits run low it settles what it made with one more call, and
    without it that takes a day."""
    return attempt.payment_intent is None and refusal.reason in (Reason.REQUEST_EXPIRED, Reason.NEED_ALREADY_SERVED)


async def _reconsider(transaction: Transaction, attempt: Attempt, tries: Sequence[Try], now: datetime) -> None:
    situation = await _situation(transaction.connection, attempt, now)
    refusal = may_charge(situation, attempt, now)
    unwanted = str(refusal.reason) if refusal is not None and refusal.reason not in _STILL_WANTED else None
    if unwanted is None and is_of_another_card(tries, situation.profile):
        unwanted = "card_changed"
    move = reconsidered(attempt, tries, unwanted, now)
    profiles: dict[str, Any] = {attempt.tenant_id: situation.profile}
    await write_moves(transaction, [(attempt, move)], now, profiles=profiles)
