"""Automatic recharge, the tenant's side: settings with consent, and asking for a recharge now. Recharge charges."""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from payments import refusals
from payments.core.pricing import NotForSale
from payments.core.recharge_settings import ConsentEvidence, Terms, TermsRefused, check_terms
from payments.repository import auto_recharge, cards, idempotency, packages, profiles, purchases, read_models
from payments.repository.auto_recharge import Settings
from payments.repository.idempotency import RequestKey
from payments.schemas import AutoRechargeBody, ConsentShown, PutAutoRecharge, RechargeTriggered
from payments.workflows.idempotent_requests import Buyer, check_same_input, hash_of
from shared.database import tenant_transaction
from shared.events import RechargeRequested
from shared.ids import new_id
from shared.money import Money
from shared.outbox import Outbox
from shared.problems import Problem

#: A request that recharge has not taken up by then is worth nothing.
REQUEST_LIVES_FOR = timedelta(minutes=10)
TRIGGER_ROUTE = "trigger-now"


class Recharging:
    """`engine` has the API's role: it sees one tenant at a time."""

    def __init__(self, engine: AsyncEngine, outbox: Outbox, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._outbox = outbox
        self._clock = clock

    async def settings(self, tenant: str) -> AutoRechargeBody:
        """The settings in force."""
        async with tenant_transaction(self._engine, tenant) as connection:
            return await _shown(connection, tenant)

    async def set(self, buyer: Buyer, body: PutAutoRecharge) -> AutoRechargeBody:
        """Replaces the settings. Enabling records who consented to which text on which terms."""
        now = self._clock()
        terms = Terms(
            enabled=body.enabled,
            threshold_credits=body.threshold_credits,
            limit=Money(body.amount_minor, body.currency),
            monthly_cap_minor=body.monthly_cap_minor,
        )
        text_version = body.consent.text_version if body.consent is not None else None
        consent = None
        if terms.enabled and text_version is not None:
            consent = ConsentEvidence(new_id("con"), text_version, given_by=buyer.subject, given_at=now)
        async with self._outbox.transaction(self._engine, buyer.tenant) as transaction:
            connection = transaction.connection
            try:
                check_terms(terms, text_version, await packages.load_active(connection))
            except TermsRefused as error:
                raise refusals.terms_refused(error) from error
            except NotForSale as error:
                raise refusals.not_for_sale(error) from error
            default = (await profiles.lock(connection, [buyer.tenant]))[buyer.tenant]
            chosen = body.payment_method_id or default
            if body.payment_method_id is not None:
                key = (buyer.tenant, body.payment_method_id)
                card = (await cards.load(connection, [key])).get(key)
                if card is None or not card.is_usable:
                    raise refusals.unknown_payment_method()
            await auto_recharge.save(
                connection, buyer.tenant, terms, consent, chosen, changed_by=buyer.subject, now=now
            )
            await profiles.changed(transaction, [buyer.tenant])
            return await _shown(connection, buyer.tenant)

    async def trigger(self, buyer: Buyer, key: str) -> RechargeTriggered:
        """Asks recharge to charge the chosen card now. The same key asks once."""
        request = RequestKey(buyer.tenant, TRIGGER_ROUTE, key)
        input_hash = hash_of(None)
        now = self._clock()
        asked = RechargeRequested(
            tenant=buyer.tenant,
            request=new_id("req"),
            requested_by=buyer.subject,
            requested_at=now,
            expires_at=now + REQUEST_LIVES_FOR,
        )
        answer = RechargeTriggered(request_id=asked.request, expires_at=asked.expires_at)
        async with self._outbox.transaction(self._engine, buyer.tenant) as transaction:
            connection = transaction.connection
            is_new = await idempotency.claim(
                connection, request, input_hash=input_hash, resource_id=asked.request, now=now
            )
            if not is_new:
                known = await idempotency.find(connection, request)
                assert known is not None and known.response is not None, "written in one transaction"
                check_same_input(known, input_hash)
                return RechargeTriggered.model_validate(known.response)
            settings = await auto_recharge.load(connection, buyer.tenant)
            if settings is None or settings.consent is None:
                raise Problem(
                    409, "auto_recharge_not_set", "Set what a recharge may cost first: PUT /api/credits/auto-recharge."
                )
            if await _usable_card(connection, buyer.tenant, settings) is None:
                raise Problem(
                    409, "no_default_card", "No saved card is chosen for it. Save one, and choose it as the default."
                )
            if await read_models.has_attempt_under_way(connection, buyer.tenant):
                raise Problem(409, "recharge_under_way", "A saved card is being charged already. Wait for its credits.")
            await profiles.lock(connection, [buyer.tenant])
            await purchases.recharge_requested(connection, buyer.tenant, asked.expires_at)
            await idempotency.answer(connection, request, answer.model_dump(mode="json"))
            transaction.publish(asked)
        return answer


async def _usable_card(connection: AsyncConnection, tenant: str, settings: Settings) -> str | None:
    """The chosen card, while it may be charged."""
    if settings.payment_method is None:
        return None
    card = (await cards.load(connection, [(tenant, settings.payment_method)])).get((tenant, settings.payment_method))
    return settings.payment_method if card is not None and card.is_usable else None


async def _shown(connection: AsyncConnection, tenant: str) -> AutoRechargeBody:
    settings = await auto_recharge.load(connection, tenant)
    if settings is None:
        return AutoRechargeBody(enabled=False)
    terms, consent = settings.terms, settings.consent
    return AutoRechargeBody(
        enabled=terms.enabled,
        threshold_credits=terms.threshold_credits,
        amount_minor=terms.limit.amount_minor,
        currency=terms.limit.currency,
        monthly_cap_minor=terms.monthly_cap_minor,
        payment_method_id=await _usable_card(connection, tenant, settings),
        consent=None
        if consent is None
        else ConsentShown(text_version=consent.text_version, given_by=consent.given_by, given_at=consent.given_at),
    )
