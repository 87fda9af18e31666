"""What Stripe no longer has: a customer that was deleted, or all of them where the account or its mode is another now.

Its event may have been lost, or never been there, so a refusal is news: the customer is let go, a new one is made by
the next request, and a card that is gone is shown and charged no more.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from payments.core.cards import detach, next_default
from payments.repository import cards, customers, profiles
from payments.stripe_gateway import StripeGateway
from shared.logs import get_logger
from shared.outbox import Outbox

log = get_logger()


@dataclass(frozen=True, slots=True)
class Gone:
    """What was asked about and is gone. Without a card that was asked about, `card` is as `customer`."""

    customer: bool
    card: bool


async def note_what_is_gone(
    engine: AsyncEngine,
    outbox: Outbox,
    stripe: StripeGateway,
    tenant: str,
    customer: str,
    payment_method: str | None,
    now: datetime,
) -> Gone:
    """Asks Stripe whether it has the tenant's customer, and whether that has the card, and writes down what is gone.

    Asked are the objects themselves: which one a refusal is about is not always in its error. Raises a `StripeProblem`
    where Stripe gives no answer; then nothing is written.
    """
    has_customer = await stripe.has_customer(customer)
    owner = None if payment_method is None else await _owner(stripe, payment_method)
    if has_customer and (payment_method is None or owner == customer):
        return Gone(customer=False, card=False)
    async with outbox.transaction(engine, tenant) as transaction:
        connection = transaction.connection
        default = (await profiles.lock(connection, [tenant]))[tenant]
        was_ours = bool(await customers.forget(connection, [customer])) if not has_customer else False
        # What was asked about may be of an earlier customer; the card may be of the present one, and is not gone then.
        is_lost = payment_method is not None and (owner is None or owner != await customers.current(connection, tenant))
        lost = [
            card
            for card in (await cards.load_attached(connection, [tenant])).values()
            if was_ours or (is_lost and card.payment_method == payment_method)
        ]
        chosen = default
        for card in lost:
            await cards.update(connection, tenant, detach(card))
            chosen = next_default(chosen, card, detach(card))
        if chosen != default:
            await profiles.set_defaults(connection, {tenant: chosen}, now)
        if was_ours or lost:
            await profiles.changed(transaction, [tenant])
    log.warning("gone_at_stripe", tenant=tenant, customer=None if has_customer else customer, cards=len(lost))
    return Gone(customer=not has_customer, card=not has_customer if payment_method is None else is_lost)


async def _owner(stripe: StripeGateway, payment_method: str) -> str | None:
    """The customer that has the card; None where nobody has."""
    found = await stripe.retrieve_payment_method(payment_method)
    return None if found is None else found.customer
