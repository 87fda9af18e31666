"""What Stripe no longer has: a customer that was deleted, or all of them where the Stripe account or its mode changed.

Its event may have been lost, or there was none. So where Stripe refuses a request, this module asks what is missing.
It unlinks a missing customer, so that the next request creates a new one, and detaches missing cards.
"""

from dataclasses import dataclass

from payments.core.cards import detach, next_default
from payments.repository import cards, customers, profiles
from payments.stripe_gateway import StripeGateway
from payments.workflows.context import WorkflowContext
from shared.logs import get_logger

log = get_logger()


@dataclass(frozen=True, slots=True)
class Missing:
    """What Stripe was asked about and does not have. Where no card was asked about, `card` equals `customer`."""

    customer: bool
    card: bool


async def record_missing(context: WorkflowContext, tenant: str, customer: str, payment_method: str | None) -> Missing:
    """Asks Stripe whether it has the tenant's customer, and whether that has the card, and records what is missing.

    It retrieves both objects, since an error does not always say which one it is about. Raises a `StripeProblem` where
    Stripe gives no answer; then nothing is written.
    """
    now = context.clock()
    has_customer = await context.stripe.has_customer(customer)
    owner = None if payment_method is None else await _owner(context.stripe, payment_method)
    if has_customer and (payment_method is None or owner == customer):
        return Missing(customer=False, card=False)
    async with context.outbox.transaction(context.engine, tenant) as transaction:
        connection = transaction.connection
        default = (await profiles.lock(connection, [tenant]))[tenant]
        was_current = bool(await customers.unlink(connection, [customer])) if not has_customer else False
        # `customer` may be an earlier one of the tenant. A card that belongs to the current one is not missing.
        is_card_missing = payment_method is not None and (
            owner is None or owner != await customers.load_current(connection, tenant)
        )
        missing_cards = [
            card
            for card in (await cards.load_attached(connection, [tenant])).values()
            if was_current or (is_card_missing and card.payment_method == payment_method)
        ]
        chosen = default
        for card in missing_cards:
            await cards.update(connection, tenant, detach(card))
            chosen = next_default(chosen, card, detach(card))
        if chosen != default:
            await profiles.set_defaults(connection, {tenant: chosen}, now)
        if was_current or missing_cards:
            await profiles.increment_versions(transaction, [tenant])
    log.warning("gone_at_stripe", tenant=tenant, customer=None if has_customer else customer, cards=len(missing_cards))
    return Missing(customer=not has_customer, card=not has_customer if payment_method is None else is_card_missing)


async def _owner(stripe: StripeGateway, payment_method: str) -> str | None:
    """The customer that has the card; None where no customer has it."""
    found = await stripe.retrieve_payment_method(payment_method)
    return None if found is None else found.customer
