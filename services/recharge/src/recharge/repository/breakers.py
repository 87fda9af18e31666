"""Breakers: one for everything, and one for each package or currency that is refused to several tenants.

`lock_breakers` comes before every read of them that a decision is based on. Else two workers, each of which does not
see the other's uncommitted refusal, would both count too few.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.core.attempts import Attempt
from recharge.core.breakers import (
    EVERYTHING,
    OPEN_FOR_FIRST,
    OPEN_FOR_MAX,
    REFUSED_TO_SEVERAL,
    REFUSED_WITHIN,
    OpenBreaker,
    OrderFact,
    Scope,
    Subject,
)

#: More of them would not change what is decided by them.
_FACTS_MAX = 1_000

#: What was refused to several tenants. A breaker that a refused API key has opened is none of these.
OPEN_BREAKERS = f"""
    SELECT scope, name, open_until FROM scoped_breaker
    UNION ALL
    SELECT 'everything', '', open_until FROM breaker WHERE failures > 0 AND reason = '{REFUSED_TO_SEVERAL}'
"""  # noqa: S608

_LOAD_OPEN_BREAKERS = text(OPEN_BREAKERS)

_LOCK = text("SELECT id FROM breaker FOR UPDATE")

_OPEN = text("""
    UPDATE breaker SET failures = failures + 1, reason = :reason, is_probing = false,
        failed_tenants = ARRAY(SELECT DISTINCT unnest(failed_tenants || CAST(:tenants AS text[]))),
        open_until = :now + LEAST(CAST(:first AS interval) * power(2, LEAST(failures, 10)), CAST(:longest AS interval))
    WHERE open_until IS NULL OR open_until <= :now OR is_probing
    RETURNING failures
""")

_OPEN_SCOPED = text("""
    INSERT INTO scoped_breaker AS mine (scope, name, open_until, failures, failed_tenants)
    VALUES (:scope, :name, CAST(:now AS timestamptz) + CAST(:first AS interval), 1, CAST(:tenants AS text[]))
    ON CONFLICT (scope, name) DO UPDATE
    SET failures = mine.failures + 1, is_probing = false,
        failed_tenants = ARRAY(SELECT DISTINCT unnest(mine.failed_tenants || excluded.failed_tenants)),
        open_until = CAST(:now AS timestamptz)
            + LEAST(CAST(:first AS interval) * power(2, LEAST(mine.failures, 10)), CAST(:longest AS interval))
    WHERE mine.open_until <= :now OR mine.is_probing
    RETURNING failures
""")

_CLOSE = text("""
    WITH closed AS (
        DELETE FROM scoped_breaker
        WHERE (scope = 'package' AND name = :package) OR (scope = 'currency' AND name = :currency)
    )
    UPDATE breaker
    SET failures = 0, reason = NULL, open_until = NULL, is_probing = false, failed_tenants = '{}'
    WHERE failures > 0
""")

# Closes a breaker that a refused API key has opened. A probe of refused orders has no result yet: another may follow.
_KEY_ACCEPTED = text("""
    WITH released AS (
        UPDATE scoped_breaker
        SET open_until = :now, is_probing = false,
            failed_tenants = ARRAY(SELECT DISTINCT unnest(failed_tenants || ARRAY[CAST(:tenant AS text)]))
        WHERE is_probing
          AND ((scope = 'package' AND name = :package) OR (scope = 'currency' AND name = :currency))
    )
    UPDATE breaker
    SET failures = CASE WHEN reason = :several THEN failures ELSE 0 END,
        open_until = CASE WHEN reason = :several THEN CAST(:now AS timestamptz) END,
        failed_tenants = CASE WHEN reason = :several
                              THEN ARRAY(SELECT DISTINCT unnest(failed_tenants || ARRAY[CAST(:tenant AS text)]))
                              ELSE '{}' END,
        reason = CASE WHEN reason = :several THEN reason END,
        is_probing = false
    WHERE failures > 0 AND (is_probing OR reason IS DISTINCT FROM :several)
""")

_PROBES = text("""
    SELECT scope, name, open_until, failed_tenants, EXISTS (
        SELECT FROM attempt
        WHERE attempt.state IN ('reserved', 'retry_scheduled') AND attempt.next_at <= :now
          AND attempt.tenant_id <> ALL (each.failed_tenants)
          AND (each.scope = 'everything' OR (each.scope = 'package' AND attempt.package = each.name)
               OR (each.scope = 'currency' AND attempt.currency = each.name))
    ) AS is_another_due
    FROM (
        SELECT 'everything' AS scope, '' AS name, open_until, failed_tenants FROM breaker WHERE failures > 0
        UNION ALL
        SELECT scope, name, open_until, failed_tenants FROM scoped_breaker
        WHERE (scope = 'package' AND name = :package) OR (scope = 'currency' AND name = :currency)
    ) AS each
""")

_TAKE_PROBE = text("""
    WITH taken AS (
        UPDATE scoped_breaker SET open_until = :until, is_probing = true
        WHERE (scope = 'package' AND name = :package) OR (scope = 'currency' AND name = :currency)
    )
    UPDATE breaker SET open_until = :until, is_probing = true WHERE failures > 0
""")

_SAVE_REFUSAL = text("""
    UPDATE profile SET refused_at = :now, refused_package = :package, refused_currency = :currency
    WHERE tenant_id = :tenant
""")

_REFUSALS = text("""
    SELECT tenant_id, refused_package AS package, refused_currency AS currency, refused_at AS at FROM profile
    WHERE refused_at > :since ORDER BY refused_at DESC LIMIT :limit
""")

_CHARGED = text("""
    SELECT min(tenant_id) AS tenant_id, package, currency, max(answered_at) AS at
    FROM attempt_try JOIN attempt USING (tenant_id, attempt)
    WHERE outcome = 'succeeded' AND answered_at > :since
    GROUP BY package, currency LIMIT :limit
""")

_FORGET_PACKAGES = text("DELETE FROM scoped_breaker WHERE scope = 'package' AND name = ANY (CAST(:packages AS text[]))")


@dataclass(frozen=True, slots=True)
class Probe:
    """A half-open breaker that a charge has to pass. `is_another_due`: a charge of a tenant that has not failed waits
    for it too."""

    open_until: datetime
    failed_tenants: frozenset[str]
    is_another_due: bool


async def lock_breakers(connection: AsyncConnection) -> None:
    """Makes this transaction the only one that decides about breakers, until it ends. Lock tenants before."""
    await connection.execute(_LOCK)


async def open_breaker(
    connection: AsyncConnection, subject: Subject, tenants: Iterable[str], reason: str, now: datetime
) -> bool:
    """Opens the breaker for 15 s, then 30 s, up to 10 minutes. True if it was closed before."""
    values: dict[str, Any] = {
        "now": now, "first": OPEN_FOR_FIRST, "longest": OPEN_FOR_MAX, "tenants": sorted(set(tenants)),
    }  # fmt: skip
    if subject == EVERYTHING:
        result = await connection.execute(_OPEN, {**values, "reason": reason})
    else:
        result = await connection.execute(_OPEN_SCOPED, {**values, "scope": subject.scope, "name": subject.name})
    return result.scalar_one_or_none() == 1


async def close_breakers(connection: AsyncConnection, attempt: Attempt) -> None:
    """Stripe has executed this attempt's charge."""
    await connection.execute(_CLOSE, {"package": attempt.package, "currency": attempt.currency})


async def key_is_accepted(connection: AsyncConnection, attempt: Attempt, now: datetime) -> None:
    """Stripe has refused this attempt's charge for a reason of its tenant, and so has accepted our API key."""
    await connection.execute(
        _KEY_ACCEPTED,
        {
            "now": now,
            "tenant": attempt.tenant_id,
            "package": attempt.package,
            "currency": attempt.currency,
            "several": REFUSED_TO_SEVERAL,
        },
    )


async def load_open_breakers(connection: AsyncConnection) -> list[OpenBreaker]:
    """What was refused to several tenants, and is not tried again yet."""
    rows = await connection.execute(_LOAD_OPEN_BREAKERS)
    return [OpenBreaker(Subject(Scope(row.scope), row.name), row.open_until) for row in rows]


async def load_probes(connection: AsyncConnection, attempt: Attempt, now: datetime) -> list[Probe]:
    """The half-open breakers that this attempt's charge has to pass."""
    rows = await connection.execute(_PROBES, {"now": now, "package": attempt.package, "currency": attempt.currency})
    return [Probe(row.open_until, frozenset(row.failed_tenants), row.is_another_due) for row in rows]


async def take_probes(connection: AsyncConnection, attempt: Attempt, now: datetime, probe_for: timedelta) -> None:
    """Makes this attempt's charge the probe of the breakers, and the only one for this time."""
    await connection.execute(
        _TAKE_PROBE, {"until": now + probe_for, "package": attempt.package, "currency": attempt.currency}
    )


async def save_refusal(connection: AsyncConnection, attempt: Attempt, now: datetime) -> None:
    """Notes that this tenant's order was refused; the newest counts."""
    await connection.execute(
        _SAVE_REFUSAL,
        {"tenant": attempt.tenant_id, "package": attempt.package, "currency": attempt.currency, "now": now},
    )


async def load_order_facts(connection: AsyncConnection, now: datetime) -> tuple[list[OrderFact], list[OrderFact]]:
    """What was refused within the last minutes, and what was charged."""
    since = {"since": now - REFUSED_WITHIN, "limit": _FACTS_MAX}
    refused = (await connection.execute(_REFUSALS, since)).all()
    charged = (await connection.execute(_CHARGED, since)).all()
    return _facts(refused), _facts(charged)


def _facts(rows: Sequence[Any]) -> list[OrderFact]:
    return [OrderFact(row.tenant_id, row.package, row.currency, row.at) for row in rows]


async def forget_packages(connection: AsyncConnection, packages: Iterable[str]) -> None:
    """Removes the breakers of packages that have changed since Stripe refused them."""
    await connection.execute(_FORGET_PACKAGES, {"packages": sorted(packages)})
