"""Decides about tenants whose inputs have changed, and reserves attempts, in the caller's transaction."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from prometheus_client import Counter

from recharge.core.attempts import Attempt
from recharge.core.decide import decide, new_attempt
from recharge.core.need import need_is_over
from recharge.core.next_action import WAITING, is_worth_trying_now
from recharge.core.purchases import left_since
from recharge.core.situation import Charge, Decision, Reason, Skip, current_request, summary_of
from recharge.core.skips import request_outcome
from recharge.core.transitions import Transition
from recharge.repository.attempts import load_tries, load_waiting, reserve
from recharge.repository.balances import clear_served_need
from recharge.repository.decisions import save_decisions
from recharge.repository.requests import finish_requests
from recharge.repository.situations import TenantSituation, load_situations
from recharge.workflows.announcements import announce
from recharge.workflows.apply_transitions import apply_transitions
from shared.ids import new_id
from shared.logs import get_logger
from shared.outbox import Transaction

log = get_logger()

_decisions = Counter("recharge_decisions_total", "Decisions that differ from the tenant's last.", ["outcome", "reason"])


@dataclass(frozen=True, slots=True)
class _Decided:
    """A decision about a tenant, and the attempt that it has begun. `attempt` is None too where another open attempt
    was in the way (`has_lost`), and then nothing was decided."""

    loaded: TenantSituation
    decision: Decision
    attempt: Attempt | None
    has_lost: bool


async def decide_tenants(transaction: Transaction, tenants: Iterable[str], now: datetime) -> None:
    """Decides about each tenant that has a profile. Reserves an attempt where its card is to be charged, and records
    the decision where it differs from the last one.

    The caller has locked the tenants. A unique index allows one open attempt a tenant all the same, and the charge is
    checked again when it is made.
    """
    tenants = sorted(set(tenants))
    if not tenants:
        return
    loaded = await load_situations(transaction.connection, tenants, now)
    decided = await _reserve(transaction, [(each, decide(each.situation, now)) for each in loaded], now)
    await _retry_sooner(transaction, loaded, now)
    over = [each.tenant for each in loaded if need_is_over(each.situation.balance, each.situation.profile)]
    await clear_served_need(transaction.connection, over)
    await _finish_requests(transaction, decided, now)
    await _record(transaction, decided, now)


async def _reserve(
    transaction: Transaction, decisions: Sequence[tuple[TenantSituation, Decision]], now: datetime
) -> list[_Decided]:
    attempts = {
        each.tenant: new_attempt(each.tenant, new_id("att"), each.situation, decision, now)
        for each, decision in decisions
        if isinstance(decision, Charge)
    }
    reserved = await reserve(transaction.connection, list(attempts.values()))
    for attempt in attempts.values():
        if attempt.attempt in reserved:
            announce(transaction, attempt)
    decided: list[_Decided] = []
    for each, decision in decisions:
        attempt = attempts.get(each.tenant)
        has_lost = attempt is not None and attempt.attempt not in reserved
        decided.append(_Decided(each, decision, None if has_lost else attempt, has_lost))
    return decided


async def _retry_sooner(transaction: Transaction, loaded: Sequence[TenantSituation], now: datetime) -> None:
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


async def _finish_requests(transaction: Transaction, decided: Sequence[_Decided], now: datetime) -> None:
    finished: list[dict[str, Any]] = []
    for each in decided:
        request = each.loaded.situation.request
        if request is None:
            continue
        attempt = each.attempt.attempt if each.attempt is not None else None
        outcome = request_outcome(request, each.decision, attempt, now)
        if outcome is not None:
            finished.append({"tenant_id": each.loaded.tenant, "request": request.request, **asdict(outcome)})
    await finish_requests(transaction.connection, finished)


async def _record(transaction: Transaction, decided: Sequence[_Decided], now: datetime) -> None:
    rows: list[dict[str, Any]] = []
    for each in decided:
        if each.has_lost:
            continue
        loaded, situation, decision = each.loaded, each.loaded.situation, each.decision
        attempt = each.attempt.attempt if each.attempt is not None else None
        summary = summary_of(decision, attempt, current_request(situation, now))
        look_again_at = decision.look_again_at if isinstance(decision, Skip) else None
        is_left_open = isinstance(decision, Skip) and decision.reason is Reason.PURCHASE_LEFT_OPEN
        before = situation.purchase_left_since
        purchase_left_since = left_since(situation.profile, before, is_blocking=is_left_open, now=now)
        if (summary, look_again_at, purchase_left_since) == (loaded.last_decision, loaded.look_again_at, before):
            continue
        is_new = summary != loaded.last_decision
        rows.append(
            {
                **_row(each, now),
                "summary": summary,
                "look_again_at": look_again_at,
                "purchase_left_since": purchase_left_since,
                "is_new": is_new,
            }
        )
        if is_new:
            reason = "" if isinstance(decision, Charge) else decision.reason
            _decisions.labels("skip" if attempt is None else "charge", reason).inc()
            log.debug("decided", tenant=loaded.tenant, decision=summary)
    await save_decisions(transaction.connection, rows)


def _row(decided: _Decided, now: datetime) -> dict[str, Any]:
    situation, decision = decided.loaded.situation, decided.decision
    settings, balance, request = situation.profile.auto_recharge, situation.balance, situation.request
    currency = settings.currency if settings else None
    charge = decision if isinstance(decision, Charge) else None
    return {
        "tenant_id": decided.loaded.tenant,
        "outcome": "charge" if charge else "skip",
        "reason": decision.reason if isinstance(decision, Skip) else None,
        "attempt": decided.attempt.attempt if decided.attempt else None,
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
        "detail": decision.detail if isinstance(decision, Skip) else None,
    }
