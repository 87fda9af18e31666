"""The settings of automatic recharge, with their owner's consent. The service recharge charges by them."""

from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from payments.core.recharge_settings import ConsentEvidence, Terms, check_terms
from payments.repository import auto_recharge, cards, packages, profiles
from payments.repository.auto_recharge import AutoRechargeSettings
from payments.workflows.context import WorkflowContext
from payments.workflows.refusals import UnknownPaymentMethod
from shared.database import tenant_transaction
from shared.ids import new_id


@dataclass(frozen=True, slots=True)
class RequestedSettings:
    """What a user sets. `payment_method`: the card to charge; None chooses the default card."""

    terms: Terms
    consent_text_version: str | None
    payment_method: str | None
    requested_by: str


async def load_settings(context: WorkflowContext, tenant: str) -> AutoRechargeSettings | None:
    """The settings in force, or None where they were never set. Their card is None where it is not usable."""
    async with tenant_transaction(context.engine, tenant) as connection:
        return await load_usable_settings(connection, tenant)


async def save_settings(
    context: WorkflowContext, tenant: str, requested: RequestedSettings
) -> AutoRechargeSettings | None:
    """Replaces the settings. Enabling records who consented to which text on which terms.

    Raises `TermsRefused`, `NotForSale` or `UnknownPaymentMethod`.
    """
    now = context.clock()
    consent = None
    if requested.terms.enabled and requested.consent_text_version is not None:
        consent = ConsentEvidence(
            new_id("con"), requested.consent_text_version, given_by=requested.requested_by, given_at=now
        )
    async with context.outbox.transaction(context.engine, tenant) as transaction:
        connection = transaction.connection
        check_terms(requested.terms, requested.consent_text_version, await packages.load_active(connection))
        default = (await profiles.lock(connection, [tenant]))[tenant]
        if requested.payment_method is not None:
            key = (tenant, requested.payment_method)
            card = (await cards.load(connection, [key])).get(key)
            if card is None or not card.is_usable:
                raise UnknownPaymentMethod
        settings = AutoRechargeSettings(requested.terms, consent, requested.payment_method or default)
        await auto_recharge.save(connection, tenant, settings, changed_by=requested.requested_by, now=now)
        await profiles.increment_versions(transaction, [tenant])
        return await load_usable_settings(connection, tenant)


async def load_usable_settings(connection: AsyncConnection, tenant: str) -> AutoRechargeSettings | None:
    """The settings in force, without their card where that is not usable."""
    settings = await auto_recharge.load(connection, tenant)
    if settings is None or settings.payment_method is None:
        return settings
    key = (tenant, settings.payment_method)
    card = (await cards.load(connection, [key])).get(key)
    return settings if card is not None and card.is_usable else replace(settings, payment_method=None)
