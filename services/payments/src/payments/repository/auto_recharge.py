"""The settings of automatic recharge, and the evidence of consent to them. Evidence is added and never changed."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.core.recharge_settings import ConsentEvidence, Terms
from shared.money import Money


@dataclass(frozen=True, slots=True)
class AutoRechargeSettings:
    """The settings in force. `consent` is from when they were last enabled; `payment_method` is the chosen card."""

    terms: Terms
    consent: ConsentEvidence | None
    payment_method: str | None


async def load(connection: AsyncConnection, tenant: str) -> AutoRechargeSettings | None:
    """The tenant's settings, or None where they were never set."""
    row = (await connection.execute(_LOAD, {"tenant": tenant})).one_or_none()
    if row is None:
        return None
    terms = Terms(
        enabled=row.enabled,
        threshold_credits=row.threshold_credits,
        limit=Money(row.amount_minor, row.currency),
        monthly_cap_minor=row.monthly_cap_minor,
    )
    if row.consent_id is None:
        return AutoRechargeSettings(terms, None, row.payment_method)
    consent = ConsentEvidence(row.consent_id, row.text_version, row.given_by, row.given_at)
    return AutoRechargeSettings(terms, consent, row.payment_method)


async def save(
    connection: AsyncConnection,
    tenant: str,
    settings: AutoRechargeSettings,
    *,
    changed_by: str,
    now: datetime,
) -> None:
    """Writes settings of a tenant whose profile is locked, and their consent. Without one the earlier stays."""
    terms, consent = settings.terms, settings.consent
    if consent is not None:
        await connection.execute(
            _INSERT_CONSENT,
            {
                "tenant": tenant,
                "consent": consent.consent_id,
                "text_version": consent.text_version,
                "given_by": consent.given_by,
                "given_at": consent.given_at,
                "terms": json.dumps(asdict(terms)),
            },
        )
    await connection.execute(
        _SAVE,
        {
            "tenant": tenant,
            "enabled": terms.enabled,
            "threshold_credits": terms.threshold_credits,
            "amount_minor": terms.limit.amount_minor,
            "currency": terms.limit.currency,
            "monthly_cap_minor": terms.monthly_cap_minor,
            "consent": None if consent is None else consent.consent_id,
            "payment_method": settings.payment_method,
            "changed_by": changed_by,
            "now": now,
        },
    )


async def choose_card(connection: AsyncConnection, tenant: str, payment_method: str) -> None:
    """Sets the chosen card of a tenant whose profile is locked. Does nothing where no settings were ever saved."""
    await connection.execute(_CHOOSE_CARD, {"tenant": tenant, "payment_method": payment_method})


_CHOOSE_CARD = text("UPDATE auto_recharge SET payment_method = :payment_method WHERE tenant_id = :tenant")

_LOAD = text("""
    SELECT auto_recharge.*, consent.text_version, consent.given_by, consent.given_at
    FROM auto_recharge LEFT JOIN consent USING (tenant_id, consent_id) WHERE auto_recharge.tenant_id = :tenant
""")

_INSERT_CONSENT = text("""
    INSERT INTO consent (tenant_id, consent_id, text_version, given_by, given_at, terms)
    VALUES (:tenant, :consent, :text_version, :given_by, :given_at, CAST(:terms AS jsonb))
""")

_SAVE = text("""
    INSERT INTO auto_recharge AS old (tenant_id, enabled, threshold_credits, amount_minor, currency, monthly_cap_minor,
                                      consent_id, payment_method, changed_by, changed_at)
    VALUES (:tenant, :enabled, :threshold_credits, :amount_minor, :currency, :monthly_cap_minor,
            CAST(:consent AS text), :payment_method, :changed_by, :now)
    ON CONFLICT (tenant_id) DO UPDATE SET
        enabled = excluded.enabled, threshold_credits = excluded.threshold_credits,
        amount_minor = excluded.amount_minor, currency = excluded.currency,
        monthly_cap_minor = excluded.monthly_cap_minor, consent_id = coalesce(excluded.consent_id, old.consent_id),
        payment_method = excluded.payment_method, changed_by = excluded.changed_by, changed_at = excluded.changed_at
""")
