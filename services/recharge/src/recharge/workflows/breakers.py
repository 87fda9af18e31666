"""What an answer to one tenant's charge means for the others, in the caller's transaction."""

from datetime import datetime
from typing import assert_never

from recharge.core.attempts import Attempt
from recharge.core.refusals import EVERYTHING, is_behind_breaker, may_probe, refused_subject, subjects_of
from recharge.core.transitions import LEASE, BreakerSignal
from recharge.repository.breakers import (
    REFUSED_TO_SEVERAL,
    close_breakers,
    key_is_accepted,
    load_order_facts,
    load_probes,
    lock_breakers,
    open_breaker,
    save_refusal,
    take_probes,
)
from recharge.repository.situations import load_open_breakers
from recharge.workflows.announcements import raise_breaker_alert
from shared.outbox import Transaction


async def update_breakers(transaction: Transaction, attempt: Attempt, means: BreakerSignal, now: datetime) -> None:
    """Opens, closes or keeps the breakers that this attempt's charge has passed."""
    connection = transaction.connection
    match means:
        case BreakerSignal.OPEN:
            reason = attempt.reason if attempt.reason and attempt.reason.startswith("stripe_") else "access_refused"
            if await open_breaker(connection, EVERYTHING, [attempt.tenant_id], reason, now):
                raise_breaker_alert("stripe_access_refused", reason, [attempt.tenant_id])
        case BreakerSignal.CLOSE:
            await close_breakers(connection, attempt)
        case BreakerSignal.KEY_ACCEPTED:
            await key_is_accepted(connection, attempt, now)
        case BreakerSignal.ORDER_REFUSED:
            await _order_refused(transaction, attempt, now)
        case _:
            assert_never(means)


async def _order_refused(transaction: Transaction, attempt: Attempt, now: datetime) -> None:
    connection, tenant = transaction.connection, attempt.tenant_id
    await save_refusal(connection, attempt, now)
    await lock_breakers(connection)
    stopped = await load_open_breakers(connection)
    again = [each.subject for each in stopped if is_behind_breaker([each], attempt.package, attempt.currency)]
    if again:
        for subject in again:
            await open_breaker(connection, subject, [tenant], REFUSED_TO_SEVERAL, now)
        return
    await key_is_accepted(connection, attempt, now)
    refusals, charged = await load_order_facts(connection, now)
    subject = refused_subject(refusals, charged, frozenset(each.subject for each in stopped), now)
    if subject is None:
        return
    tenants = [
        each.tenant for each in refusals if subject == EVERYTHING or subject in subjects_of(each.package, each.currency)
    ]
    if await open_breaker(connection, subject, tenants, REFUSED_TO_SEVERAL, now):
        raise_breaker_alert(f"{subject.scope}_refused", subject.name or REFUSED_TO_SEVERAL, tenants)


async def may_pass_breakers(transaction: Transaction, attempt: Attempt, now: datetime) -> bool:
    """Whether this attempt's charge may pass the breakers that are half open: as the one call that finds out."""
    connection = transaction.connection
    await lock_breakers(connection)
    probes = await load_probes(connection, attempt, now)
    may_pass = all(
        may_probe(attempt.tenant_id, probe.failed_tenants, probe.open_until, now, is_another_due=probe.is_another_due)
        for probe in probes
    )
    if may_pass and probes:
        await take_probes(connection, attempt, now, LEASE)
    return may_pass
