"""One step of one attempt: prepare it in a transaction, call Stripe in none, record the answer in another.

prepare ─▶ commit ─▶ (recharge.try_committed) ─▶ Stripe ─▶ (recharge.stripe_answered) ─▶ record
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

from prometheus_client import Counter, Histogram
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from recharge.core.answers import Answer
from recharge.core.attempts import Attempt, Checkpoint, Try
from recharge.core.breakers import is_behind_breaker
from recharge.core.cards import chargeable
from recharge.core.decide import is_half_open, may_charge, no_probe_left
from recharge.core.next_action import NextAction, after_reconsideration, next_action
from recharge.core.proof import NO_LEDGER_PAYMENTS, belongs_to, may_belong_to, only_if_proven
from recharge.core.reconcile import after_reading, list_window
from recharge.core.situation import Situation, Skip
from recharge.core.skips import after_skip, why_unwanted
from recharge.core.transitions import LEASE, Transition
from recharge.core.tries import after_answer, begin_try, key_without_card, may_repeat_key, no_card_left, repeat_try
from recharge.repository.attempts import claim_attempt, load_attempts, load_parameters, load_tries
from recharge.repository.locks import lock_for_charging
from recharge.repository.other_payments import load_ledger_payments
from recharge.repository.situations import load_situations
from recharge.stripe_gateway import StripeGateway
from recharge.workflows.apply_transitions import apply_transitions
from recharge.workflows.breakers import may_pass_breakers
from recharge.workflows.calls import (
    CancelCall,
    ChargeCall,
    ListCall,
    PreparedCall,
    RetrieveCall,
    StripeCall,
    charge_parameters,
    make_call,
)
from recharge.workflows.decide_tenants import decide_tenants
from recharge.workflows.rate_limiter import RateLimiter
from shared.events import BillingProfile
from shared.faults import fault_point
from shared.logs import get_logger
from shared.outbox import Outbox, Transaction

log = get_logger()

_calls = Counter("recharge_stripe_calls_total", "Calls to Stripe.", ["call", "answer"])
_reserved_to_asked_s = Histogram(
    "recharge_reserved_to_asked_seconds",
    "From the decision to the first call to Stripe.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30),
)


@dataclass(frozen=True, slots=True)
class StepRunner:
    """Runs the next step of attempts."""

    engine: AsyncEngine
    outbox: Outbox
    gateway: StripeGateway
    rate_limiter: RateLimiter
    #: The first one signs, all verify.
    signing_keys: Sequence[str]

    async def run(self, tenant: str, attempt: str) -> None:
        """Runs one step of this attempt, if it is due and no other executor has it."""
        async with self.outbox.transaction(self.engine) as transaction:
            leased_at = transaction.now
            call = await self._prepare(transaction, tenant, attempt, leased_at)
        if call is None:
            return
        await fault_point("recharge.try_committed")
        await self.rate_limiter.acquire()
        asked_at = await self.outbox.now(self.engine)
        if asked_at >= leased_at + LEASE:
            # The rate limiter took long, or this process was suspended. Another executor may have reconciled the
            # attempt by now, and Stripe may have forgotten the key.
            log.warning("lease_ran_out_before_the_call", tenant=tenant, attempt=attempt, n=call.checkpoint.n)
            return
        answer = await make_call(call, self.gateway, self.rate_limiter)
        await fault_point("recharge.stripe_answered")
        kind = call.request.label
        _calls.labels(kind, answer.label).inc()
        log.info("stripe_answered", tenant=tenant, attempt=attempt, n=call.checkpoint.n, call=kind, answer=answer.label)
        async with self.outbox.transaction(self.engine) as transaction:
            await self._record(transaction, call, answer, asked_at, transaction.now)

    async def _prepare(self, transaction: Transaction, tenant: str, name: str, now: datetime) -> PreparedCall | None:
        connection = transaction.connection
        await lock_for_charging(connection, tenant)
        attempt = await claim_attempt(connection, tenant, name)
        if attempt is None or attempt.has_ended or attempt.next_at > now:
            return None
        tries = (await load_tries(connection, [attempt]))[name] if attempt.n > 0 else tuple[Try, ...]()
        action = next_action(attempt, tries, now)
        match action:
            case NextAction.BEGIN:
                return await self._begin_try(transaction, attempt, tries, now)
            case NextAction.REPEAT_KEY:
                return await self._repeat_try(transaction, attempt, tries, now)
            case NextAction.RECONSIDER:
                await _reconsider(transaction, attempt, tries, now)
                return None
            case NextAction.RETRIEVE | NextAction.LIST | NextAction.CANCEL:
                leased = Transition(replace(attempt, next_at=now + LEASE))
                await apply_transitions(transaction, [(attempt, leased)], now)
                return _prepared(attempt, tries, await self._reading(connection, action, attempt, tries))
            case NextAction.NOTHING:
                return None
        assert_never(action)

    async def _begin_try(
        self, transaction: Transaction, attempt: Attempt, tries: Sequence[Try], now: datetime
    ) -> PreparedCall | None:
        """The only transaction that decides, under the tenant's lock, that a card is charged now."""
        connection = transaction.connection
        situation = await _situation(connection, attempt, now)
        if not await _is_allowed(transaction, situation, attempt, tries, now):
            return None
        transition = begin_try(attempt, tries, chargeable(situation.profile, situation.stopped_cards), now)
        if transition is None:
            given_up = no_card_left(attempt, tries, now)
            await apply_transitions(transaction, [(attempt, given_up)], now, profiles=_profiles(attempt, situation))
            return None
        calling = transition.tries[-1]
        is_new = all(one.n != calling.n for one in tries)
        parameters = charge_parameters(attempt, calling, self.signing_keys[0]) if is_new else None
        charging = replace(transition.attempt, profile_version=situation.profile.version)
        begun = replace(transition, attempt=charging)
        await apply_transitions(transaction, [(attempt, begun)], now, parameters=parameters)
        if attempt.n == 0:
            _reserved_to_asked_s.observe((now - attempt.created_at).total_seconds())
        parameters = parameters or await load_parameters(connection, charging)
        return _prepared(charging, begun.tries, ChargeCall(calling, parameters, was_in_doubt=False))

    async def _repeat_try(
        self, transaction: Transaction, attempt: Attempt, tries: Sequence[Try], now: datetime
    ) -> PreparedCall | None:
        """If no call under the key was executed, this one charges the card. So it has to be allowed like the first."""
        connection = transaction.connection
        situation = await _situation(connection, attempt, now)
        if not await _is_allowed(transaction, situation, attempt, tries, now):
            return None
        if not may_repeat_key(tries, chargeable(situation.profile, situation.stopped_cards)):
            await apply_transitions(transaction, [(attempt, key_without_card(attempt, tries, now))], now)
            return None
        transition = repeat_try(attempt, tries[-1], now)
        await apply_transitions(transaction, [(attempt, transition)], now)
        parameters = await load_parameters(connection, attempt)
        return _prepared(attempt, transition.tries, ChargeCall(transition.tries[-1], parameters, was_in_doubt=True))

    async def _reading(
        self, connection: AsyncConnection, action: NextAction, attempt: Attempt, tries: Sequence[Try]
    ) -> RetrieveCall | ListCall | CancelCall:
        payment_intent = attempt.payment_intent
        if payment_intent is None:
            ledger_payments = await load_ledger_payments(connection, attempt.tenant_id, attempt.attempt)
            return ListCall(
                list_window(attempt, tries),
                is_wanted=lambda view: belongs_to(attempt, view, self.signing_keys, ledger_payments),
                may_be_wanted=lambda view: may_belong_to(attempt, view, ledger_payments),
                ledger_payments=ledger_payments,
            )
        return CancelCall(payment_intent) if action is NextAction.CANCEL else RetrieveCall(payment_intent)

    async def _record(
        self, transaction: Transaction, call: PreparedCall, answer: Answer, asked_at: datetime, now: datetime
    ) -> None:
        connection, request = transaction.connection, call.request
        await lock_for_charging(connection, call.tenant)
        attempt = (await load_attempts(connection, [call.attempt]))[call.attempt]
        tries = (await load_tries(connection, [attempt]))[call.attempt]
        if Checkpoint.of(attempt, tries) != call.checkpoint:
            log.info("answer_came_late", tenant=call.tenant, attempt=call.attempt, state=attempt.state.value)
            return
        ledger_payments = request.ledger_payments if isinstance(request, ListCall) else NO_LEDGER_PAYMENTS
        answer = only_if_proven(attempt, answer, self.signing_keys, ledger_payments)
        situation = await _situation(connection, attempt, now)
        cards = chargeable(situation.profile, situation.stopped_cards)
        if isinstance(request, ChargeCall):
            if tries[-1].outcome is not None:
                return
            transition = after_answer(
                attempt,
                tries,
                answer,
                cards,
                was_in_doubt=request.was_in_doubt,
                is_refused_to_others=is_behind_breaker(situation.open_breakers, attempt.package, attempt.currency),
                now=now,
            )
        else:
            is_list = isinstance(request, ListCall)
            transition = after_reading(attempt, tries, answer, cards, is_list=is_list, asked_at=asked_at, now=now)
        [after] = await apply_transitions(
            transaction, [(attempt, transition)], now, profiles=_profiles(attempt, situation)
        )
        if after.has_ended:
            await decide_tenants(transaction, [call.tenant], now)


def _prepared(attempt: Attempt, tries: Sequence[Try], request: StripeCall) -> PreparedCall:
    return PreparedCall(
        tenant=attempt.tenant_id,
        attempt=attempt.attempt,
        checkpoint=Checkpoint.of(attempt, tries),
        customer=attempt.stripe_customer,
        payment_intent=attempt.payment_intent,
        request=request,
    )


async def _situation(connection: AsyncConnection, attempt: Attempt, now: datetime) -> Situation:
    loaded = await load_situations(connection, [attempt.tenant_id], now, leaving_out_attempt=attempt.attempt)
    return loaded[0].situation


def _profiles(attempt: Attempt, situation: Situation) -> dict[str, BillingProfile]:
    return {attempt.tenant_id: situation.profile}


async def _is_allowed(
    transaction: Transaction, situation: Situation, attempt: Attempt, tries: Sequence[Try], now: datetime
) -> bool:
    """Whether the card may be charged now. If not, the attempt waits or is given up."""
    skip = may_charge(situation, attempt, now)
    if skip is None and is_half_open(situation, attempt) and not await may_pass_breakers(transaction, attempt, now):
        skip = no_probe_left(now)
    if skip is not None:
        await _skip(transaction, attempt, tries, skip, now)
    return skip is None


async def _skip(transaction: Transaction, attempt: Attempt, tries: Sequence[Try], skip: Skip, now: datetime) -> None:
    transition = after_skip(attempt, tries, skip, now)
    await apply_transitions(transaction, [(attempt, transition)], now)
    if transition.attempt.has_ended:
        await decide_tenants(transaction, [attempt.tenant_id], now)


async def _reconsider(transaction: Transaction, attempt: Attempt, tries: Sequence[Try], now: datetime) -> None:
    situation = await _situation(transaction.connection, attempt, now)
    unwanted = why_unwanted(may_charge(situation, attempt, now), tries, situation.profile)
    transition = after_reconsideration(attempt, tries, unwanted, now)
    await apply_transitions(transaction, [(attempt, transition)], now, profiles=_profiles(attempt, situation))
