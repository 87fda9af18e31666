"""Whether a tenant's browser may have the client secret of an attempt that waits for authentication.

The client secret allows to confirm the PaymentIntent. So only the attempt's own tenant gets it, only for this attempt,
and only while the attempt waits for authentication.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from recharge.core.answers import Answer, NotFound, OperatorError, PaymentIntentSeen, Refused
from recharge.core.attempts import Attempt, State
from recharge.core.proof import belongs_to
from shared.stripe_events import PaymentIntentView

#: In these a browser may confirm a PaymentIntent. When an off-session charge is declined because it needs
#: authentication, it goes back to `requires_payment_method`
#: (https://docs.stripe.com/payments/paymentintents/lifecycle).
CONFIRMABLE_STATUSES = frozenset(["requires_payment_method", "requires_confirmation", "requires_action"])


class Withheld(StrEnum):
    """Why the secret is withheld: the problem's code."""

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
    """Its signature is verified although its id is known, because whoever gets the secret may confirm it."""
    return view.id == attempt.payment_intent and belongs_to(replace(attempt, payment_intent=None), view, signing_keys)
