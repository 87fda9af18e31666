"""Whether a tenant's browser may have the client secret of an attempt that waits for authentication. Pure.

Whoever has it may confirm the PaymentIntent: it is for the attempt's own tenant, for nothing but this attempt, and only
while its owner is waited for.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from recharge.core.answers import Answer, NotFound, OperatorError, PaymentIntentSeen, Refused
from recharge.core.attempts import Attempt, State
from recharge.core.proof import belongs_to
from shared.stripe_events import PaymentIntentView

#: In these a browser may confirm a PaymentIntent. One whose off-session charge was declined for want of authentication
#: is back at `requires_payment_method` (https://docs.stripe.com/payments/paymentintents/lifecycle).
CONFIRMABLE_STATUSES = frozenset(["requires_payment_method", "requires_confirmation", "requires_action"])


class Withheld(StrEnum):
    """Why the secret is not handed out: the problem's code."""

    NOT_WAITING = "attempt_not_waiting"
    NOT_CONFIRMABLE = "payment_intent_not_confirmable"
    NOT_PROVEN = "payment_intent_not_proven"
    UNAVAILABLE = "stripe_unavailable"
    MISCONFIGURED = "stripe_misconfigured"


def waits_for_authentication(attempt: Attempt) -> bool:
    """Whether its owner is asked to authenticate, and may still do so."""
    return attempt.state is State.REQUIRES_ACTION and not attempt.canceling and attempt.payment_intent is not None


def client_secret_in(attempt: Attempt, answer: Answer, signing_keys: Sequence[str]) -> str | Withheld:
    """The client secret in Stripe's answer about the PaymentIntent of an attempt that waits."""
    match answer:
        case PaymentIntentSeen(view) if not _is_proven(attempt, view, signing_keys):
            return Withheld.NOT_PROVEN
        case PaymentIntentSeen(view) if view.status not in CONFIRMABLE_STATUSES or view.client_secret is None:
            return Withheld.NOT_CONFIRMABLE
        case PaymentIntentSeen(PaymentIntentView(client_secret=str(client_secret))):
            return client_secret
        case NotFound():
            return Withheld.NOT_CONFIRMABLE
        case OperatorError() | Refused():
            return Withheld.MISCONFIGURED
        case _:
            return Withheld.UNAVAILABLE


def _is_proven(attempt: Attempt, view: PaymentIntentView, signing_keys: Sequence[str]) -> bool:
    """By its signature too, although its id is known: its secret is given away."""
    return view.id == attempt.payment_intent and belongs_to(replace(attempt, payment_intent=None), view, signing_keys)
