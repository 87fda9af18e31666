"""Which PaymentIntent is an attempt's own. Pure.

Metadata can be copied, and whoever may write to the Stripe account may write it: a PaymentIntent is believed to be an
attempt's only by our signature over the whole order, and only with the attempt's amount, currency and customer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from recharge.core.answers import Answer, Declined, NoAnswer, PaymentIntentSeen
from recharge.core.attempts import Attempt
from shared.signed_metadata import MetadataRejected, verify
from shared.stripe_events import PaymentIntentView


@dataclass(frozen=True, slots=True)
class LedgerPayments:
    """PaymentIntents that the ledger has entries of in an attempt's name: credits, and receipts that are not credited.
    An operator who credits a receipt vouches for it."""

    credited: frozenset[str] = frozenset()
    uncredited: frozenset[str] = frozenset()


NO_LEDGER_PAYMENTS = LedgerPayments()


def proven(
    attempt: Attempt, answer: Answer, signing_keys: Sequence[str], named: LedgerPayments = NO_LEDGER_PAYMENTS
) -> Answer:
    """The answer, or none where it shows a PaymentIntent that is not proven to be the attempt's."""
    match answer:
        case PaymentIntentSeen(view) if attempt.payment_intent is None and not belongs_to(
            attempt, view, signing_keys, named
        ):
            return NoAnswer("payment_intent_of_another")
        case Declined(view=view) if view is not None and not belongs_to(attempt, view, signing_keys, named):
            return replace(answer, view=None)
        case _:
            return answer


def may_belong_to(attempt: Attempt, view: PaymentIntentView, named: LedgerPayments = NO_LEDGER_PAYMENTS) -> bool:
    """Whether the PaymentIntent names this attempt, for its customer and amount, and has taken money or still may.

    Unsigned it proves nothing; but its metadata may have been edited, or the key that signed it may be gone, and then
    the attempt has been paid. So it does not let another one be made.
    """
    is_named = view.metadata.get("attempt") == attempt.attempt or view.id in named.uncredited
    return is_named and view.status != "canceled" and _is_ordered(attempt, view)


def _is_ordered(attempt: Attempt, view: PaymentIntentView) -> bool:
    return (view.amount_minor, view.currency, view.customer) == (
        attempt.amount_minor, attempt.currency, attempt.stripe_customer,
    )  # fmt: skip


def belongs_to(
    attempt: Attempt, view: PaymentIntentView, signing_keys: Sequence[str], named: LedgerPayments = NO_LEDGER_PAYMENTS
) -> bool:
    """Whether the PaymentIntent is the one that this attempt has asked for.

    One whose id was proven before may have lost its metadata since; its amount and customer can't have changed.
    """
    if not _is_ordered(attempt, view):
        return False
    if attempt.payment_intent is not None:
        return attempt.payment_intent == view.id
    if view.id in named.credited:
        return True
    try:
        order = verify(view.metadata, signing_keys)
    except MetadataRejected:
        return False
    return (order.tenant, order.attempt, order.credits, order.amount_minor, order.currency) == (
        attempt.tenant_id, attempt.attempt, attempt.credits, attempt.amount_minor, attempt.currency,
    )  # fmt: skip
