"""The situations of any number of tenants, read in one statement."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import text
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.core.attempts import month_of
from recharge.core.breakers import OpenBreaker, Scope, Subject
from recharge.core.cards import CardStop, still_stopped
from recharge.core.situation import Balance, Month, Request, Situation, Suspension
from recharge.repository.breakers import OPEN_BREAKERS
from shared.events import BillingProfile, CreditPackage
from shared.topics import BY_NAME, TopicName

# What is the same for all tenants is in each row, except the catalog, which is only in the first.
_SITUATIONS = text(f"""
    WITH stopped AS ({OPEN_BREAKERS}), facts AS MATERIALIZED (
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
    """The situations of those tenants that have a profile.

    `leaving_out_attempt` is not taken into account, and its request counts as waiting. An attempt that succeeded after
    its end counts as open until its credits have come.
    """
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
        open_breakers=tuple(
            OpenBreaker(Subject(Scope(each["scope"]), each["name"]), datetime.fromisoformat(each["open_until"]))
            for each in row.stopped or ()
        ),
    )
