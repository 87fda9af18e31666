"""Which PaymentIntent is an attempt's own.

Metadata can be copied, and everyone who may write to the Stripe account may write it. So a PaymentIntent is believed to
be an attempt's only by our signature over the whole order, and only with the attempt's amount, currency and customer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from recharge.core.answers import Answer, Declined, NoAnswer, PaymentIntentSeen
from recharge.core.attempts import Attempt
from shared.signed_metadata import MetadataRejected, verify
from shared.stripe_events import PaymentIntentView


@dataclass(frozen=True, slots=True)
class LedgerPayments:
    """PaymentIntents for which the ledger has entries in an attempt's name: credited, or with an unapplied receipt.
    An operator who credits a receipt confirms that the payment is the attempt's."""

    credited: frozenset[str] = frozenset()
    uncredited: frozenset[str] = frozenset()


NO_LEDGER_PAYMENTS = LedgerPayments()


@dataclass(frozen=True, slots=True)
class NamedPaymentIntent:
    """A PaymentIntent in an event, and the attempt that its metadata names."""

    view: PaymentIntentView
    attempt: str
    is_signed: bool


def is_believable(attempt: Attempt, seen: NamedPaymentIntent) -> bool:
    """Whether an event about this PaymentIntent counts for the attempt that it names.

    Without the signature, everyone who may write to the Stripe account could give an attempt a PaymentIntent that was
    cancelled, and its card would be charged once more.
    """
    return seen.is_signed or attempt.payment_intent == seen.view.id


def only_if_proven(
    attempt: Attempt, answer: Answer, signing_keys: Sequence[str], ledger_payments: LedgerPayments = NO_LEDGER_PAYMENTS
) -> Answer:
    """The answer, without a PaymentIntent that is not proven to be the attempt's."""
    match answer:
        case PaymentIntentSeen(view) if attempt.payment_intent is None and not belongs_to(
            attempt, view, signing_keys, ledger_payments
        ):
            return NoAnswer("payment_intent_of_another")
        case Declined(view=view) if view is not None and not belongs_to(attempt, view, signing_keys, ledger_payments):
            return replace(answer, view=None)
        case _:
            return answer


def belongs_to(
    attempt: Attempt,
    view: PaymentIntentView,
    signing_keys: Sequence[str],
    ledger_payments: LedgerPayments = NO_LEDGER_PAYMENTS,
) -> bool:
    """Whether the PaymentIntent is the one that this attempt has asked for.

    If its id was proven before, its metadata may have been lost since, but its amount and customer cannot have changed.
    """
    if not is_as_ordered(attempt, view):
        return False
    if attempt.payment_intent is not None:
        return attempt.payment_intent == view.id
    if view.id in ledger_payments.credited:
        return True
    try:
        order = verify(view.metadata, signing_keys)
    except MetadataRejected:
        return False
    return (order.tenant, order.attempt, order.credits, order.amount_minor, order.currency) == (
        attempt.tenant_id, attempt.attempt, attempt.credits, attempt.amount_minor, attempt.currency,
    )  # fmt: skip


def may_belong_to(
    attempt: Attempt, view: PaymentIntentView, ledger_payments: LedgerPayments = NO_LEDGER_PAYMENTS
) -> bool:
    """Whether the PaymentIntent names this attempt, for its customer and amount, and has taken money or still may.

    Unsigned, it proves nothing. But its metadata may have been edited, or the key that signed it may have been removed,
    and then the attempt has been paid. So no other PaymentIntent is made meanwhile.
    """
    is_named = view.metadata.get("attempt") == attempt.attempt or view.id in ledger_payments.uncredited
    return is_named and view.status != "canceled" and is_as_ordered(attempt, view)


def is_as_ordered(attempt: Attempt, view: PaymentIntentView) -> bool:
    """Whether amount, currency and customer are the attempt's."""
    return (view.amount_minor, view.currency, view.customer) == (
        attempt.amount_minor, attempt.currency, attempt.stripe_customer,
    )  # fmt: skip
