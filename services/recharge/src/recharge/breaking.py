"""What an answer to one tenant's charge means for the others, in the caller's transaction."""

from datetime import datetime
from typing import assert_never

from recharge.announcing import sound_breaker
from recharge.core.attempts import Attempt
from recharge.core.moves import LEASE, Breaker
from recharge.core.refusals import EVERYTHING, is_stopped, may_probe, refused_subject, subjects_of
from recharge.repository.breakers import (
    REFUSED_TO_SEVERAL,
    close_breakers,
    key_is_taken,
    load_order_facts,
    load_probes,
    lock_breakers,
    open_breaker,
    save_refusal,
    take_probes,
)
from recharge.repository.situations import load_stopped
from shared.outbox import Transaction


async def follow_up_breaker(transaction: Transaction, attempt: Attempt, means: Breaker, now: datetime) -> None:
    """Opens, closes or keeps the breakers that this attempt's charge has passed."""
    connection = transaction.connection
    match means:
        case Breaker.OPEN:
            reason = attempt.reason if attempt.reason and attempt.reason.startswith("stripe_") else "access_refused"
            if await open_breaker(connection, EVERYTHING, [attempt.tenant_id], reason, now):
                sound_breaker("stripe_access_refused", reason, [attempt.tenant_id])
        case Breaker.CLOSE:
            await close_breakers(connection, attempt)
        case Breaker.KEY_TAKEN:
            await key_is_taken(connection, attempt, now)
        case Breaker.ORDER_REFUSED:
            await _order_refused(transaction, attempt, now)
        case _:
            assert_never(means)


async def _order_refused(transaction: Transaction, attempt: Attempt, now: datetime) -> None:
    connection, tenant = transaction.connection, attempt.tenant_id
    await save_refusal(connection, attempt, now)
    await lock_breakers(connection)
    stopped = await load_stopped(connection)
    again = [each.subject for each in stopped if is_stopped([each], attempt.package, attempt.currency)]
    if again:
        for subject in again:
            await open_breaker(connection, subject, [tenant], REFUSED_TO_SEVERAL, now)
        return
    await key_is_taken(connection, attempt, now)
    refusals, charged = await load_order_facts(connection, now)
    subject = refused_subject(refusals, charged, frozenset(each.subject for each in stopped), now)
    if subject is None:
        return
    tenants = [
        each.tenant for each in refusals if subject == EVERYTHING or subject in subjects_of(each.package, each.currency)
    ]
    if await open_breaker(connection, subject, tenants, REFUSED_TO_SEVERAL, now):
        sound_breaker(f"{subject.scope}_refused", subject.name or REFUSED_TO_SEVERAL, tenants)


async def has_passage(transaction: Transaction, attempt: Attempt, now: datetime) -> bool:
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
