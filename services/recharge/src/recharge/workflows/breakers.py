"""Opens, probes and closes breakers by the answers to charges, in the caller's transaction."""

from datetime import datetime
from typing import assert_never

from recharge.core.attempts import Attempt
from recharge.core.breakers import (
    ACCESS_REFUSED_ALERT,
    EVERYTHING,
    REFUSED_TO_SEVERAL,
    access_refusal,
    alert_of,
    is_behind_breaker,
    may_probe,
    refused_subject,
    tenants_refused,
)
from recharge.core.transitions import LEASE, BreakerSignal
from recharge.repository.breakers import (
    close_breakers,
    key_is_accepted,
    load_open_breakers,
    load_order_facts,
    load_probes,
    lock_breakers,
    open_breaker,
    save_refusal,
    take_probes,
)
from recharge.workflows.announcements import raise_breaker_alert
from shared.outbox import Transaction


async def update_breakers(transaction: Transaction, attempt: Attempt, signal: BreakerSignal, now: datetime) -> None:
    """Opens, closes or keeps the breakers that apply to this attempt's charge."""
    connection = transaction.connection
    match signal:
        case BreakerSignal.OPEN:
            reason = access_refusal(attempt)
            if await open_breaker(connection, EVERYTHING, [attempt.tenant_id], reason, now):
                raise_breaker_alert(ACCESS_REFUSED_ALERT, reason, [attempt.tenant_id])
        case BreakerSignal.CLOSE:
            await close_breakers(connection, attempt)
        case BreakerSignal.KEY_ACCEPTED:
            await key_is_accepted(connection, attempt, now)
        case BreakerSignal.ORDER_REFUSED:
            await _order_refused(transaction, attempt, now)
        case _:
            assert_never(signal)


async def _order_refused(transaction: Transaction, attempt: Attempt, now: datetime) -> None:
    connection, tenant = transaction.connection, attempt.tenant_id
    await save_refusal(connection, attempt, now)
    await lock_breakers(connection)
    breakers = await load_open_breakers(connection)
    failed = [each.subject for each in breakers if is_behind_breaker([each], attempt.package, attempt.currency)]
    if failed:
        for subject in failed:
            await open_breaker(connection, subject, [tenant], REFUSED_TO_SEVERAL, now)
        return
    await key_is_accepted(connection, attempt, now)
    refusals, charged = await load_order_facts(connection, now)
    subject = refused_subject(refusals, charged, frozenset(each.subject for each in breakers), now)
    if subject is None:
        return
    tenants = tenants_refused(subject, refusals)
    if await open_breaker(connection, subject, tenants, REFUSED_TO_SEVERAL, now):
        raise_breaker_alert(alert_of(subject), subject.name or REFUSED_TO_SEVERAL, tenants)


async def may_pass_breakers(transaction: Transaction, attempt: Attempt, now: datetime) -> bool:
    """Whether this attempt's charge may pass the half-open breakers, as the one probe of each. It then is that
    probe."""
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
