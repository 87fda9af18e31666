"""One step of one attempt: prepare in a transaction, ask Stripe in none, write the answer down in another.

prepare ─▶ commit ─▶ (recharge.try_committed) ─▶ Stripe ─▶ (recharge.stripe_answered) ─▶ write down
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, assert_never

from prometheus_client import Counter, Histogram
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from recharge.core.answers import Answer, NoAnswer, NotFound, OperatorError, PaymentIntentSeen
from recharge.core.attempts import Attempt, Checkpoint, State, Try
from recharge.core.cards import chargeable
from recharge.core.decide import PROBE_CHECKED_EVERY, Reason, Situation, Skip, may_charge
from recharge.core.payment_intent import after_payment_intent, give_up
from recharge.core.proof import NO_LEDGER_PAYMENTS, belongs_to, may_belong_to, proven
from recharge.core.reconcile import (
    NextAction,
    after_empty_list,
    after_missing_payment_intent,
    after_reconsideration,
    after_unproven_match,
    is_of_another_card,
    list_window,
    next_action,
)
from recharge.core.refusals import is_behind_breaker
from recharge.core.transitions import LEASE, BreakerSignal, Transition, next_call_at
from recharge.core.tries import after_answer, begin_try, repeat_try
from recharge.repository.attempts import claim_attempt, load_attempts, load_parameters, load_tries
from recharge.repository.other_payments import load_ledger_payments
from recharge.repository.situations import load_situations, lock_for_charging
from recharge.stripe_gateway import UNPROVEN, StripeGateway
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
class StepRunner:
    """Takes attempts one step further."""

    engine: AsyncEngine
    outbox: Outbox
    gateway: StripeGateway
    rate_limiter: RateLimiter
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
        await self.rate_limiter.acquire()
        asked_at = await self.outbox.now(self.engine)
        if asked_at >= leased_at + LEASE:
            # The rate limiter made it wait, or this process was suspended: another worker may have taken over.
            log.warning("lease_ran_out_before_the_call", tenant=tenant, attempt=attempt, n=call.checkpoint.n)
            return
        answer = await make_call(call, self.gateway, self.rate_limiter)
        await fault_point("recharge.stripe_answered")
        _calls.labels(call.request.label, answer.label).inc()
        log.info(
            "stripe_answered",
            tenant=tenant,
            attempt=attempt,
            n=call.checkpoint.n,
            call=call.request.label,
            answer=answer.label,
        )
        async with self.outbox.transaction(self.engine) as transaction:
            await self._write_down(transaction, call, answer, asked_at, transaction.now)

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
                return await self._begin(transaction, attempt, tries, now)
            case NextAction.RECONSIDER:
                await _reconsider(transaction, attempt, tries, now)
                return None
            case NextAction.REPEAT_KEY:
                return await self._repeat_key(transaction, attempt, tries, now)
            case NextAction.NOTHING:
                return None
            case NextAction.RETRIEVE | NextAction.LIST | NextAction.CANCEL:
                leased = Transition(replace(attempt, next_at=now + LEASE))
                await apply_transitions(transaction, [(attempt, leased)], now)
                return _call(attempt, tries, await self._look(connection, action, attempt, tries))
        assert_never(action)

    async def _begin(
        self, transaction: Transaction, attempt: Attempt, tries: Sequence[Try], now: datetime
    ) -> PreparedCall | None:
        """The one transaction that decides, under the tenant's lock, that a card is charged now."""
        connection = transaction.connection
        situation = await _situation(connection, attempt, now)
        if await _is_refused(transaction, situation, attempt, tries, now):
            return None
        transition = begin_try(attempt, tries, chargeable(situation.profile, situation.stopped_cards), now)
        profiles = {attempt.tenant_id: situation.profile}
        if transition is None:
            told = replace(attempt, action_required="new_card")
            end = replace(give_up(told, tries, Reason.NO_CARD, now, state=State.DECLINED), suspend=Reason.NO_CARD)
            await apply_transitions(transaction, [(attempt, end)], now, profiles=profiles)
            return None
        calling = transition.tries[-1]
        is_new = all(one.n != calling.n for one in tries)
        parameters = charge_parameters(attempt, calling, self.signing_keys[0]) if is_new else None
        obeying = replace(transition, attempt=replace(transition.attempt, profile_version=situation.profile.version))
        await apply_transitions(transaction, [(attempt, obeying)], now, parameters=parameters)
        if attempt.n == 0:
            _reserved_to_asked_s.observe((now - attempt.created_at).total_seconds())
        return _call(
            obeying.attempt,
            transition.tries,
            ChargeCall(calling, parameters or await load_parameters(connection, obeying.attempt), was_in_doubt=False),
        )

    async def _repeat_key(
        self, transaction: Transaction, attempt: Attempt, tries: Sequence[Try], now: datetime
    ) -> PreparedCall | None:
        """Where no call under the key was executed this one is the charge, so it has to be allowed like the first."""
        connection = transaction.connection
        situation = await _situation(connection, attempt, now)
        if await _is_refused(transaction, situation, attempt, tries, now):
            return None
        cards = chargeable(situation.profile, situation.stopped_cards)
        if all(card.payment_method != tries[-1].payment_method for card in cards):
            # The key's own card was removed: what the key has made is looked for and cancelled, never charged.
            transition = give_up(attempt, tries, "card_removed", now)
            await apply_transitions(transaction, [(attempt, transition)], now)
            return None
        transition = repeat_try(attempt, tries[-1], now)
        await apply_transitions(transaction, [(attempt, transition)], now)
        parameters = await load_parameters(connection, attempt)
        return _call(attempt, transition.tries, ChargeCall(transition.tries[-1], parameters, was_in_doubt=True))

    async def _look(
        self, connection: AsyncConnection, action: NextAction, attempt: Attempt, tries: Sequence[Try]
    ) -> RetrieveCall | ListCall | CancelCall:
        if attempt.payment_intent is None:
            named = await load_ledger_payments(connection, attempt.tenant_id, attempt.attempt)
            return ListCall(
                list_window(attempt, tries),
                lambda view: belongs_to(attempt, view, self.signing_keys, named),
                lambda view: may_belong_to(attempt, view, named),
                named,
            )
        return (
            CancelCall(attempt.payment_intent) if action is NextAction.CANCEL else RetrieveCall(attempt.payment_intent)
        )

    async def _write_down(
        self, transaction: Transaction, call: PreparedCall, answer: Answer, asked_at: datetime, now: datetime
    ) -> None:
        connection = transaction.connection
        await lock_for_charging(connection, call.tenant)
        attempt = (await load_attempts(connection, [call.attempt]))[call.attempt]
        tries = (await load_tries(connection, [attempt]))[call.attempt]
        if Checkpoint.of(attempt, tries) != call.checkpoint:
            log.info("answer_came_late", tenant=call.tenant, attempt=call.attempt, state=attempt.state.value)
            return
        named = call.request.ledger_payments if isinstance(call.request, ListCall) else NO_LEDGER_PAYMENTS
        answer = proven(attempt, answer, self.signing_keys, named)
        situation = await _situation(connection, attempt, now)
        cards = chargeable(situation.profile, situation.stopped_cards)
        match call.request:
            case ChargeCall(was_in_doubt=was_in_doubt):
                if tries[-1].outcome is not None:
                    return
                is_refused_to_others = is_behind_breaker(situation.stopped, attempt.package, attempt.currency)
                transition = after_answer(
                    attempt, tries, answer, cards,
                    was_in_doubt=was_in_doubt, now=now, is_refused_to_others=is_refused_to_others,
                )  # fmt: skip
            case _ if isinstance(answer, PaymentIntentSeen):
                transition = after_payment_intent(attempt, tries, answer.view, cards, now)
            case ListCall() if isinstance(answer, NotFound):
                transition = after_empty_list(attempt, tries, asked_at, cards, now)
            case ListCall() if answer == NoAnswer(UNPROVEN):
                transition = after_unproven_match(attempt, now)
            case _ if isinstance(answer, NotFound):
                transition = after_missing_payment_intent(attempt, now)
            case _:
                waiting = replace(attempt, next_at=next_call_at(4, now))
                transition = Transition(
                    waiting, breaker=BreakerSignal.OPEN if isinstance(answer, OperatorError) else None
                )
        [after] = await apply_transitions(
            transaction, [(attempt, transition)], now, profiles={call.tenant: situation.profile}
        )
        if after.has_ended:
            await decide_tenants(transaction, [call.tenant], now)


def _call(attempt: Attempt, tries: Sequence[Try], request: StripeCall) -> PreparedCall:
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


async def _is_refused(
    transaction: Transaction, situation: Situation, attempt: Attempt, tries: Sequence[Try], now: datetime
) -> bool:
    """Whether the card must not be charged now. Writes what follows: the attempt waits, ends or is reconciled."""
    refusal = may_charge(situation, attempt, now)
    is_half_open = situation.breaker_is_half_open or is_behind_breaker(
        situation.stopped, attempt.package, attempt.currency
    )
    if refusal is None and is_half_open:
        may_pass = await may_pass_breakers(transaction, attempt, now)
        refusal = None if may_pass else Skip(Reason.BREAKER_OPEN, now + PROBE_CHECKED_EVERY)
    if refusal is not None:
        await _refuse(transaction, attempt, tries, refusal, now)
    return refusal is not None


async def _refuse(
    transaction: Transaction, attempt: Attempt, tries: Sequence[Try], refusal: Skip, now: datetime
) -> None:
    may_be_made = attempt.payment_intent is not None or any(one.in_doubt for one in tries)
    if refusal.reason in _PASSING:
        at = refusal.look_again_at or now + timedelta(seconds=1)
        transition = Transition(replace(attempt, next_at=max(at, now + timedelta(milliseconds=500))))
    elif may_be_made and (refusal.reason in _WAITED_FOR or _is_key_kept(attempt, refusal)):
        transition = Transition(replace(attempt, next_at=now + _WAIT))
    else:
        transition = give_up(attempt, tries, refusal.reason, now)
    await apply_transitions(transaction, [(attempt, transition)], now)
    if transition.attempt.has_ended:
        await decide_tenants(transaction, [attempt.tenant_id], now)


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
    transition = after_reconsideration(attempt, tries, unwanted, now)
    profiles: dict[str, Any] = {attempt.tenant_id: situation.profile}
    await apply_transitions(transaction, [(attempt, transition)], now, profiles=profiles)
