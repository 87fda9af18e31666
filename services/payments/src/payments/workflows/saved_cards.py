"""A tenant's saved cards: showing, saving, removing, choosing the default. Our row says which card is the default."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from payments import refusals
from payments.core.cards import SavedCard, detach, remove
from payments.repository import auto_recharge, cards, profiles
from payments.schemas import PaymentMethod, PaymentMethodList, SetupIntentCreated
from payments.stripe_gateway import SetupIntentSecret, StripeGateway, StripeProblem, StripeRefused
from payments.workflows.missing_at_stripe import note_what_is_gone
from payments.workflows.stripe_customers import ensure_stripe_customer
from shared.database import tenant_transaction
from shared.faults import fault_point
from shared.logs import get_logger
from shared.outbox import Outbox

log = get_logger()

CARDS_MAX = 20


class SavedCards:
    """`engine` has the API's role: it sees one tenant at a time."""

    def __init__(
        self, engine: AsyncEngine, outbox: Outbox, stripe: StripeGateway, clock: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._stripe = stripe
        self._clock = clock

    async def shown(self, tenant: str) -> PaymentMethodList:
        """The usable cards, the default first."""
        async with tenant_transaction(self._engine, tenant) as connection:
            default = await profiles.default_of(connection, tenant)
            found = await cards.load_attached(connection, [tenant])
        shown = [_shown(card, default) for card in found.values() if card.is_usable]
        return PaymentMethodList(payment_methods=sorted(shown, key=lambda each: not each.is_default))

    async def begin_saving(self, tenant: str) -> SetupIntentCreated:
        """A SetupIntent for the browser; the card comes back by webhook."""
        async with tenant_transaction(self._engine, tenant) as connection:
            saved = await cards.load_attached(connection, [tenant])
        if len(saved) >= CARDS_MAX:
            raise refusals.too_many_cards(CARDS_MAX)
        try:
            created = await self._create_setup_intent(tenant)
        except StripeProblem as error:
            raise refusals.stripe_failed(error) from error
        return SetupIntentCreated(setup_intent_id=created.setup_intent, client_secret=created.client_secret)

    async def _create_setup_intent(self, tenant: str) -> SetupIntentSecret:
        """For the tenant's customer; for the next one where Stripe no longer has that."""
        customer = await ensure_stripe_customer(self._engine, self._outbox, self._stripe, tenant, self._clock())
        try:
            return await self._stripe.create_setup_intent(_setup_intent_of(customer))
        except StripeRefused:
            gone = await note_what_is_gone(
                self._engine, self._outbox, self._stripe, tenant, customer, None, self._clock()
            )
            if not gone.customer:
                raise
        customer = await ensure_stripe_customer(self._engine, self._outbox, self._stripe, tenant, self._clock())
        return await self._stripe.create_setup_intent(_setup_intent_of(customer))

    async def remove(self, tenant: str, payment_method: str) -> None:
        """From the commit on the card is never charged; Stripe lets go of it now, or when it can be reached again."""
        async with self._outbox.transaction(self._engine, tenant) as transaction:
            connection = transaction.connection
            default = (await profiles.lock(connection, [tenant]))[tenant]
            card = (await cards.load(connection, [(tenant, payment_method)])).get((tenant, payment_method))
            if card is None:
                raise refusals.unknown_payment_method()
            removed = remove(card, now=self._clock())
            if removed != card:
                await cards.update(connection, tenant, removed)
                if default == payment_method:
                    await profiles.set_defaults(connection, {tenant: None}, self._clock())
                await profiles.changed(transaction, [tenant])
        await fault_point("payments.removal_committed")
        try:
            await detach_at_stripe(self._stripe, payment_method)
        except StripeProblem as error:
            log.warning("detaching_left_to_the_sweeper", payment_method=payment_method, reason=str(error))
            return
        await note_detached(self._engine, self._outbox, tenant, payment_method)

    async def make_default(self, tenant: str, payment_method: str) -> None:
        """The card that automatic recharge charges."""
        async with self._outbox.transaction(self._engine, tenant) as transaction:
            connection = transaction.connection
            default = (await profiles.lock(connection, [tenant]))[tenant]
            card = (await cards.load(connection, [(tenant, payment_method)])).get((tenant, payment_method))
            if card is None or not card.is_usable:
                raise refusals.unknown_payment_method()
            if default != payment_method:
                await profiles.set_defaults(connection, {tenant: payment_method}, self._clock())
            await auto_recharge.choose_card(connection, tenant, payment_method)
            await profiles.changed(transaction, [tenant])


def _setup_intent_of(customer: str) -> dict[str, Any]:
    return {
        "customer": customer,
        "usage": "off_session",
        "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
    }


async def detach_at_stripe(stripe: StripeGateway, payment_method: str) -> None:
    """Returns once no customer at Stripe has the card. Raises a `StripeProblem` where that is not certain."""
    try:
        await stripe.detach_payment_method(payment_method)
    except StripeRefused:
        found = await stripe.retrieve_payment_method(payment_method)
        if found is not None and found.customer is not None:
            raise


async def note_detached(engine: AsyncEngine, outbox: Outbox, tenant: str, payment_method: str) -> None:
    """Writes that Stripe has let go of a removed card."""
    key = (tenant, payment_method)
    async with outbox.transaction(engine, tenant) as transaction:
        await profiles.lock(transaction.connection, [tenant])
        card = (await cards.load(transaction.connection, [key]))[key]
        if card != detach(card):
            await cards.update(transaction.connection, tenant, detach(card))
            await profiles.changed(transaction, [tenant])


def _shown(card: SavedCard, default: str | None) -> PaymentMethod:
    details = card.details
    assert details is not None, "usable cards have details"
    return PaymentMethod(
        payment_method_id=card.payment_method,
        brand=details.brand,
        last4=details.last4,
        exp_month=details.exp_month,
        exp_year=details.exp_year,
        is_default=card.payment_method == default,
    )
