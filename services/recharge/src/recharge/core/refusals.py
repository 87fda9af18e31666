"""What a 400 for a charge is about: the card, the customer, or the order.

Stripe's 400 for a detached card has neither `code` nor `param` (https://docs.stripe.com/api/errors: both may be
missing). So the card and the customer are retrieved.
"""

from dataclasses import dataclass

from recharge.core.answers import Answer, CardUnusable, NotFound, OperatorError, OrderRefused, Refused


@dataclass(frozen=True, slots=True)
class CardSeen:
    """A PaymentMethod, and the customer it is attached to; None: it is detached."""

    customer: str | None


@dataclass(frozen=True, slots=True)
class CustomerSeen:
    """A customer. Stripe still shows one that was deleted."""

    is_deleted: bool


def explain_refusal(refused: Answer, customer: str, card: CardSeen | Answer, owner: CustomerSeen | Answer) -> Answer:
    """The 400 for a charge of this customer, explained by its card and `owner`, the customer, as retrieved since.

    It stays as it was if they could not be retrieved now. If our key may not retrieve them, the 400 counts as a refusal
    of this one order, which stops one tenant and not all. So it does if there is no such customer: Stripe still shows a
    deleted one, so this one belongs to another account or to the other mode; if several do, so does the key.
    """
    if owner == CustomerSeen(is_deleted=True):
        return CardUnusable("customer_gone")
    if owner == NotFound():
        return OrderRefused("customer_not_in_this_account", made_nothing=True)
    if card == NotFound() or (isinstance(card, CardSeen) and card.customer != customer):
        return CardUnusable("card_detached")
    if all(_explains_nothing(seen) for seen in (card, owner)):
        return OrderRefused(refused.code if isinstance(refused, Refused) else "not_found")
    return refused


def _explains_nothing(seen: CardSeen | CustomerSeen | Answer) -> bool:
    match seen:
        case CardSeen() | CustomerSeen() | Refused():
            return True
        case OperatorError(status):
            return status == 403
        case _:
            return False
