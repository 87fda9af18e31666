"""What decisions rest on, read in one statement for any number of tenants, and what was decided."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.core.attempts import month_of
from recharge.core.cards import CardStop, still_stopped
from recharge.core.decide import Balance, Month, Request, Situation, Suspension
from recharge.core.refusals import OpenBreaker, Scope, Subject
from recharge.repository.breakers import REFUSED_TO_SEVERAL
from recharge.repository.rows import write_rows
from shared.events import BillingProfile, CreditPackage
from shared.topics import BY_NAME, TopicName

# What was refused to several tenants; a breaker that a refused key has opened is none of these.
_STOPPED = f"""
    SELECT scope, name, open_until FROM scoped_breaker
    UNION ALL
    SELECT 'everything', '', open_until FROM breaker WHERE failures > 0 AND reason = '{REFUSED_TO_SEVERAL}'
"""  # noqa: S608

# What is the same for all tenants comes with each of them, but the catalog only with the first.
_SITUATIONS = text(f"""
    WITH stopped AS ({_STOPPED}), facts AS MATERIALIZED (
        SELECT (SELECT jsonb_agg(package_event ORDER BY package) FROM package) AS packages,
               (SELECT CASE WHEN count(*) = :partitions THEN min(caught_up_at) END FROM topic_progress
                WHERE topic = :topic) AS caught_up_at,
               open_until AS breaker_open_until, failures > 0 AS breaker_is_half_open,
               (SELECT jsonb_agg(to_jsonb(stopped)) FROM stopped) AS stopped
        FROM breaker
    )
    SELECT CASE WHEN row_number() OVER (ORDER BY profile.tenant_id) = 1 THEN facts.packages END AS packages,
           facts.caught_up_at, facts.breaker_open_until, facts.breaker_is_half_open, facts.stopped,
           profile.tenant_id, profile.profile, profile.frozen_reason, profile.suspended_at, profile.suspended_reason,
           profile.suspended_cards, profile.purchase_left_since, profile.last_decision, profile.look_again_at,
           balance.version AS balance_version, balance.available, balance.receivable, balance.receivable_since,
           balance.last_entry_version, balance.served_available, balance.served_at, balance.last_purchase_at,
           open.attempt AS open_attempt, paid.since AS paid_otherwise_since,
           month.spent, month.limited, disputed.since AS dispute_open_since,
           stopped.cards AS stopped_cards, proven.cards AS proven_cards,
           waiting.request, waiting.requested_at, waiting.expires_at
    FROM facts CROSS JOIN profile
    LEFT JOIN balance USING (tenant_id)
    LEFT JOIN LATERAL (
        SELECT attempt FROM attempt
        WHERE attempt.tenant_id = profile.tenant_id AND attempt IS DISTINCT FROM CAST(:leaving_out AS text)
          AND (state NOT IN ('credited', 'canceled') OR (state = 'canceled' AND reserved_month IS NOT NULL))
        LIMIT 1
    ) AS open ON true
    LEFT JOIN LATERAL (
        SELECT max(seen_at) AS since FROM other_payment
        WHERE other_payment.tenant_id = profile.tenant_id AND NOT is_credited
    ) AS paid ON true
    LEFT JOIN LATERAL (
        SELECT jsonb_object_agg(currency, spent) AS spent, bool_or(limited) AS limited FROM (
            SELECT currency, sum(amount_minor) AS spent, bool_or(limited_by_cap) AS limited FROM (
                SELECT currency, amount_minor, limited_by_cap FROM attempt
                WHERE attempt.tenant_id = profile.tenant_id AND reserved_month = :month
                  AND attempt IS DISTINCT FROM CAST(:leaving_out AS text)
                UNION ALL
                SELECT currency, amount_minor, false FROM other_payment
                WHERE other_payment.tenant_id = profile.tenant_id AND other_payment.month = :month) AS counted
            GROUP BY currency) AS by_currency
    ) AS month ON true
    LEFT JOIN LATERAL (
        SELECT max(opened_at) AS since FROM dispute JOIN tenant_payment_intent AS owned USING (payment_intent)
        WHERE owned.tenant_id = profile.tenant_id AND dispute.closed_at IS NULL
    ) AS disputed ON true
    LEFT JOIN LATERAL (
        SELECT jsonb_agg(card_stop) AS cards FROM card_stop WHERE card_stop.tenant_id = profile.tenant_id
    ) AS stopped ON true
    LEFT JOIN LATERAL (
        SELECT jsonb_object_agg(payment_method, seen_at) AS cards FROM card_evidence
        WHERE card_evidence.tenant_id = profile.tenant_id
          AND (profile.suspended_at IS NOT NULL OR stopped.cards IS NOT NULL OR open.attempt IS NOT NULL)
          AND payment_method IN (SELECT jsonb_path_query(profile.profile, '$.cards[*].payment_method') #>> '{{}}')
    ) AS proven ON true
    LEFT JOIN LATERAL (
        SELECT request, requested_at, expires_at FROM request
        WHERE request.tenant_id = profile.tenant_id
          AND (state = 'waiting' OR (state = 'attempted' AND attempt = CAST(:leaving_out AS text)))
        ORDER BY (state = 'attempted') DESC, requested_at, request LIMIT 1
    ) AS waiting ON true
    WHERE profile.tenant_id = ANY (CAST(:tenants AS text[])) AND profile.profile IS NOT NULL
    ORDER BY profile.tenant_id
""")  # noqa: S608

_LOAD_STOPPED = text(_STOPPED)

_MAKE_LOCKABLE = text("""
    INSERT INTO balance (tenant_id)
    SELECT tenant_id FROM unnest(CAST(:tenants AS text[])) AS wanted (tenant_id) ORDER BY tenant_id
    ON CONFLICT DO NOTHING
""")

_LOCK_TENANTS = text("""
    SELECT tenant_id FROM balance WHERE tenant_id = ANY (CAST(:tenants AS text[])) ORDER BY tenant_id FOR UPDATE
""")

_LOCK_FOR_CHARGING = text("""
    SELECT balance.tenant_id FROM balance JOIN profile USING (tenant_id) WHERE balance.tenant_id = :tenant
    FOR UPDATE OF balance, profile
""")

_SAVE_DECISIONS = text("""
    WITH new AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb))
             AS new (tenant_id text, said text, look_again_at timestamptz, is_new boolean, outcome text, reason text,
                     attempt text, request text, package text, amount_minor bigint, currency text,
                     limited_by_cap boolean, available bigint, balance_version bigint, profile_version bigint,
                     spent_minor bigint, decided_at timestamptz, detail text, purchase_left_since timestamptz)
    ), written AS (
        INSERT INTO decision (tenant_id, outcome, reason, attempt, request, package, amount_minor, currency,
                              limited_by_cap, available, balance_version, profile_version, spent_minor, decided_at,
                              detail)
        SELECT tenant_id, outcome, reason, attempt, request, package, amount_minor, currency, limited_by_cap,
               available, balance_version, profile_version, spent_minor, decided_at, detail
        FROM new WHERE is_new ORDER BY tenant_id
    )
    UPDATE profile SET last_decision = new.said, look_again_at = new.look_again_at,
                       purchase_left_since = new.purchase_left_since
    FROM new WHERE profile.tenant_id = new.tenant_id
""")

_NEED_IS_OVER = text("""
    UPDATE balance SET served_available = NULL, served_at = NULL
    WHERE tenant_id = ANY (CAST(:tenants AS text[])) AND served_available IS NOT NULL
""")

_NEED_IS_SERVED = text("""
    UPDATE balance SET served_available = new.available, served_at = new.served_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new (tenant_id text, available bigint, served_at timestamptz)
    WHERE balance.tenant_id = new.tenant_id
""")

_CATALOG_MATTERS = text("""
    UPDATE profile SET look_again_at = :now
    FROM (SELECT tenant_id FROM profile
          WHERE split_part(last_decision, ':', 1) = 'skip'
            AND split_part(last_decision, ':', 2) IN ('currency', 'no_package_fits', 'cap_reached')
          ORDER BY tenant_id FOR UPDATE) AS waiting
    WHERE profile.tenant_id = waiting.tenant_id
""")

_DUE_TENANTS = text("""
    SELECT tenant_id FROM profile WHERE look_again_at <= :now ORDER BY look_again_at LIMIT :limit
""")

_TENANTS_WITH_REQUESTS = text("""
    SELECT DISTINCT tenant_id FROM request WHERE state = 'waiting' ORDER BY tenant_id LIMIT :limit
""")

_STOPS = TypeAdapter(tuple[CardStop, ...])
_TIMES = TypeAdapter(dict[str, datetime])


@dataclass(frozen=True, slots=True)
class TenantSituation:
    """A tenant's situation, and what was decided about it last."""

    tenant: str
    situation: Situation
    last_decision: str | None
    look_again_at: datetime | None


async def load_situations(
    connection: AsyncConnection, tenants: Iterable[str], now: datetime, *, leaving_out_attempt: str | None = None
) -> list[TenantSituation]:
    """The situations of those tenants that have a profile. One attempt may be left out of account, whose request then
    counts as waiting. An attempt that succeeded after its end counts as open until its credits have come."""
    profile_topic = TopicName.BILLING_PROFILE_CHANGED
    result = await connection.execute(
        _SITUATIONS,
        {
            "tenants": sorted(tenants),
            "month": month_of(now),
            "leaving_out": leaving_out_attempt,
            "partitions": BY_NAME[profile_topic].partitions,
            "topic": profile_topic,
        },
    )
    rows = result.all()
    packages = tuple(
        CreditPackage.model_validate(each) for row in rows if row.packages is not None for each in row.packages
    )
    return [
        TenantSituation(row.tenant_id, _situation(row, packages), row.last_decision, row.look_again_at) for row in rows
    ]


def _situation(row: Row[Any], packages: tuple[CreditPackage, ...]) -> Situation:
    balance = None
    if row.available is not None:
        balance = Balance(
            version=row.balance_version,
            available=row.available,
            receivable=row.receivable,
            receivable_since=row.receivable_since,
            last_entry_version=row.last_entry_version,
            served_available=row.served_available,
            served_at=row.served_at,
            last_purchase_at=row.last_purchase_at,
        )
    suspension = None
    if row.suspended_at is not None:
        suspension = Suspension(row.suspended_at, row.suspended_reason, frozenset(row.suspended_cards))
    profile = BillingProfile.model_validate(row.profile)
    settings, proven_at = profile.auto_recharge, _TIMES.validate_python(row.proven_cards or {})
    return Situation(
        profile=profile,
        balance=balance,
        packages=packages,
        month=Month(row.spent or {}, bool(row.limited)),
        open_attempt=row.open_attempt,
        paid_otherwise_since=row.paid_otherwise_since,
        dispute_open_since=row.dispute_open_since,
        stopped_cards=still_stopped(profile, _STOPS.validate_python(row.stopped_cards or ()), proven_at),
        card_proven_at=proven_at.get(settings.payment_method or "") if settings else None,
        purchase_left_since=row.purchase_left_since,
        suspension=suspension,
        is_frozen=row.frozen_reason is not None,
        inputs_caught_up_at=row.caught_up_at,
        breaker_open_until=row.breaker_open_until,
        breaker_is_half_open=row.breaker_is_half_open,
        request=Request(row.request, row.requested_at, row.expires_at) if row.request else None,
        stopped=tuple(
            OpenBreaker(Subject(Scope(each["scope"]), each["name"]), datetime.fromisoformat(each["open_until"]))
            for each in row.stopped or ()
        ),
    )


async def load_open_breakers(connection: AsyncConnection) -> list[OpenBreaker]:
    """What was refused to several tenants, and is not tried again yet."""
    rows = await connection.execute(_LOAD_STOPPED)
    return [OpenBreaker(Subject(Scope(row.scope), row.name), row.open_until) for row in rows]


async def lock_tenants(connection: AsyncConnection, tenants: Iterable[str]) -> None:
    """Makes this transaction the only one that decides about the tenants, until it ends.

    Every handler's first write: two that each changed an input without seeing the other's would both decide wrongly.
    The lock is the tenant's balance row, which `save_balances` and `save_entries` take by themselves.
    """
    wanted = {"tenants": sorted(set(tenants))}
    if wanted["tenants"]:
        await connection.execute(_MAKE_LOCKABLE, wanted)
        await connection.execute(_LOCK_TENANTS, wanted)


async def lock_for_charging(connection: AsyncConnection, tenant: str) -> None:
    """The same for one tenant that has an attempt, with its profile row."""
    await connection.execute(_LOCK_FOR_CHARGING, {"tenant": tenant})


async def save_decisions(connection: AsyncConnection, decisions: Sequence[dict[str, Any]]) -> None:
    """Writes the decisions that are new, and on the profiles what was `said` last and when to look again."""
    await write_rows(connection, _SAVE_DECISIONS, decisions)


async def need_is_over(connection: AsyncConnection, tenants: Sequence[str]) -> None:
    """These balances have been seen at or above their thresholds."""
    if tenants:
        await connection.execute(_NEED_IS_OVER, {"tenants": sorted(tenants)})


async def need_is_served(connection: AsyncConnection, served: Sequence[dict[str, Any]]) -> None:
    """An automatic charge has been credited for the need that began at this balance: rows of tenant_id,
    available, served_at."""
    await write_rows(connection, _NEED_IS_SERVED, served)


async def catalog_changed(connection: AsyncConnection, now: datetime) -> None:
    """Has all those decided about again for whom there was no fitting package."""
    await connection.execute(_CATALOG_MATTERS, {"now": now})


async def due_tenants(connection: AsyncConnection, now: datetime, limit: int) -> list[str]:
    """Tenants about whom time alone may have changed the decision."""
    due = await connection.execute(_DUE_TENANTS, {"now": now, "limit": limit})
    waiting = await connection.execute(_TENANTS_WITH_REQUESTS, {"limit": limit})
    return sorted({row.tenant_id for row in due} | {row.tenant_id for row in waiting})
