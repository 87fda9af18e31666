"""Decides about tenants whose inputs have changed, and reserves attempts, in the caller's transaction."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import Counter

from recharge.core.attempts import Attempt, State
from recharge.core.decide import Charge, Reason, Skip, decide
from recharge.core.purchases import left_since
from recharge.core.reconcile import WAITING, is_worth_trying_now
from recharge.core.transitions import Transition
from recharge.repository.attempts import load_tries, load_waiting, reserve
from recharge.repository.inputs import finish_requests
from recharge.repository.situations import TenantSituation, load_situations, need_is_over, save_decisions
from recharge.workflows.announcements import announce
from recharge.workflows.apply_transitions import apply_transitions
from shared.ids import new_id
from shared.logs import get_logger
from shared.outbox import Transaction

log = get_logger()

#: A request may overtake the profile that makes it possible; so long a refusal is not final.
REQUEST_GRACE_PERIOD = timedelta(seconds=15)
#: Refusals that pass by themselves: the request waits until it expires.
_PASSING = frozenset([Reason.INPUTS_STALE, Reason.BREAKER_OPEN, Reason.PURCHASE_LEFT_OPEN])
#: Refusals that answer the request: what it asks for is under way, or its owner is buying.
_FINAL_AT_ONCE = frozenset([Reason.ATTEMPT_OPEN, Reason.OPEN_PURCHASE])

_decisions = Counter("recharge_decisions_total", "Decisions that differ from the tenant's last.", ["outcome", "reason"])


async def decide_tenants(transaction: Transaction, tenants: Iterable[str], now: datetime) -> None:
    """Decides about each tenant that has a profile; reserves an attempt where it is to be charged; writes down what
    was decided where that differs from the last decision.

    The caller has locked the tenants. One open attempt a tenant is an index all the same, and the charge itself is
    checked again when it is made.
    """
    tenants = sorted(set(tenants))
    if not tenants:
        return
    loaded = await load_situations(transaction.connection, tenants, now)
    decided = [(each, decide(each.situation, now)) for each in loaded]
    attempts = {each.tenant: _attempt(each, outcome, now) for each, outcome in decided if isinstance(outcome, Charge)}
    reserved = await reserve(transaction.connection, list(attempts.values()))
    for attempt in attempts.values():
        if attempt.attempt in reserved:
            announce(transaction, attempt)
    await _retry_sooner(transaction, loaded, now)
    await need_is_over(transaction.connection, [each.tenant for each, _ in decided if _need_is_over(each)])
    await _finish_requests(transaction, decided, attempts, reserved, now)
    await _write_down(transaction, decided, attempts, reserved, now)


async def _retry_sooner(transaction: Transaction, loaded: list[TenantSituation], now: datetime) -> None:
    situations = {each.tenant: each.situation for each in loaded if each.situation.open_attempt is not None}
    if not situations:
        return
    waiting = await load_waiting(transaction.connection, situations, WAITING, now)
    tries = await load_tries(transaction.connection, waiting) if waiting else {}
    transitions: list[tuple[Attempt, Transition]] = []
    for attempt in waiting:
        situation = situations[attempt.tenant_id]
        if is_worth_trying_now(attempt, tries[attempt.attempt], situation.profile, situation.card_proven_at):
            transitions.append((attempt, Transition(replace(attempt, next_at=now))))
    await apply_transitions(transaction, transitions, now)


def _attempt(each: TenantSituation, charge: Charge, now: datetime) -> Attempt:
    situation = each.situation
    assert situation.profile.stripe_customer is not None
    request = situation.request if situation.request and situation.request.expires_at > now else None
    return Attempt(
        tenant_id=each.tenant,
        attempt=new_id("att"),
        version=1,
        state=State.RESERVED,
        trigger="manual" if request else "automatic",
        request=request.request if request else None,
        amount_minor=charge.package.price_minor,
        currency=charge.package.currency,
        credits=charge.package.credits,
        package=charge.package.package,
        expires_in_days=charge.package.expires_in_days,
        limited_by_cap=charge.limited_by_cap,
        stripe_customer=situation.profile.stripe_customer,
        profile_version=situation.profile.version,
        balance_available=situation.balance.available if situation.balance else None,
        created_at=now,
        changed_at=now,
        next_at=now,
        reason="limited_by_cap" if charge.limited_by_cap else None,
    )


def _need_is_over(each: TenantSituation) -> bool:
    balance, settings = each.situation.balance, each.situation.profile.auto_recharge
    return (
        balance is not None
        and settings is not None
        and balance.served_available is not None
        and balance.version >= max(balance.last_entry_version, each.situation.profile.credited_in_version)
        and balance.available >= settings.threshold_credits
    )


async def _finish_requests(
    transaction: Transaction,
    decided: list[tuple[TenantSituation, Charge | Skip]],
    attempts: dict[str, Attempt],
    reserved: set[str],
    now: datetime,
) -> None:
    closed: list[dict[str, Any]] = []
    for each, outcome in decided:
        request = each.situation.request
        if request is None:
            continue
        row = {"tenant_id": each.tenant, "request": request.request, "reason": None, "attempt": None}
        if request.expires_at <= now:
            closed.append({**row, "state": "expired", "reason": Reason.REQUEST_EXPIRED})
        elif isinstance(outcome, Charge):
            attempt = attempts[each.tenant].attempt
            if attempt in reserved:
                closed.append({**row, "state": "attempted", "attempt": attempt})
        elif outcome.reason in _FINAL_AT_ONCE or (
            outcome.reason not in _PASSING and now >= request.requested_at + REQUEST_GRACE_PERIOD
        ):
            closed.append({**row, "state": "refused", "reason": outcome.reason})
    await finish_requests(transaction.connection, closed)


async def _write_down(
    transaction: Transaction,
    decided: list[tuple[TenantSituation, Charge | Skip]],
    attempts: dict[str, Attempt],
    reserved: set[str],
    now: datetime,
) -> None:
    decisions: list[dict[str, Any]] = []
    for each, outcome in decided:
        attempt = attempts.get(each.tenant)
        if attempt is not None and attempt.attempt not in reserved:
            continue
        said = f"charge:{attempt.attempt}" if attempt else f"skip:{_reason(each, outcome, now)}"
        look_again_at = outcome.look_again_at if isinstance(outcome, Skip) else None
        left_open = isinstance(outcome, Skip) and outcome.reason is Reason.PURCHASE_LEFT_OPEN
        before = each.situation.purchase_left_since
        purchase_left_since = left_since(each.situation.profile, before, is_in_the_way=left_open, now=now)
        if (said, look_again_at, purchase_left_since) == (each.last_decision, each.look_again_at, before):
            continue
        is_new = said != each.last_decision
        decision = _decision(each, outcome, attempt, now)
        decision |= {"said": said, "look_again_at": look_again_at, "purchase_left_since": purchase_left_since}
        decisions.append({**decision, "is_new": is_new})
        if is_new:
            reason = "" if isinstance(outcome, Charge) else outcome.reason
            _decisions.labels("charge" if attempt else "skip", reason).inc()
            log.debug("decided", tenant=each.tenant, decision=said)
    await save_decisions(transaction.connection, decisions)


def _reason(each: TenantSituation, outcome: Charge | Skip, now: datetime) -> str:
    """The refusal, the request that it answers and its detail: where one differs it is another decision."""
    reason, detail = ("", None) if isinstance(outcome, Charge) else (str(outcome.reason), outcome.detail)
    request = each.situation.request
    answered = request.request if request is not None and request.expires_at > now else ""
    return ":".join([reason, answered, detail or ""]).rstrip(":")


def _decision(each: TenantSituation, outcome: Charge | Skip, attempt: Attempt | None, now: datetime) -> dict[str, Any]:
    situation = each.situation
    settings, balance, request = situation.profile.auto_recharge, situation.balance, situation.request
    currency = settings.currency if settings else None
    charge = outcome if isinstance(outcome, Charge) else None
    return {
        "tenant_id": each.tenant,
        "outcome": "charge" if charge else "skip",
        "reason": outcome.reason if isinstance(outcome, Skip) else None,
        "attempt": attempt.attempt if attempt else None,
        "request": request.request if request else None,
        "package": charge.package.package if charge else None,
        "amount_minor": charge.package.price_minor if charge else None,
        "currency": currency,
        "limited_by_cap": charge.limited_by_cap if charge else None,
        "available": balance.available if balance else None,
        "balance_version": balance.version if balance else None,
        "profile_version": situation.profile.version,
        "spent_minor": situation.month.spent_minor.get(currency, 0) if currency else 0,
        "decided_at": now,
        "detail": outcome.detail if isinstance(outcome, Skip) else None,
    }
