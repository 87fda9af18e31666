"""The calls that an attempt may need, and the parameters they are made with.

`label` is a call's name in metrics and logs: it stays as it is whatever the class is called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, assert_never

from recharge.charging.pace import Pace
from recharge.core.answers import Answer, LookAgain, NotFound, Refused
from recharge.core.attempts import Asked, Attempt, Try
from recharge.core.find_out import ListWindow
from recharge.core.proof import NamedPayments
from recharge.stripe_gateway import StripeGateway
from shared.signed_metadata import CreditOrder, sign
from shared.stripe_events import PaymentIntentView


@dataclass(frozen=True, slots=True)
class Charge:
    """Create and confirm, or confirm again, under the last try's key. `doubted`: it was called before, in doubt."""

    label: ClassVar[str] = "charge"

    last: Try
    parameters: Mapping[str, Any]
    doubted: bool


@dataclass(frozen=True, slots=True)
class Retrieve:
    label: ClassVar[str] = "retrieve"

    payment_intent: str


@dataclass(frozen=True, slots=True)
class Find:
    """Lists the customer's PaymentIntents for the one that `is_wanted`, or one that `may_be_wanted`. `named` are the
    payments that this rests on."""

    label: ClassVar[str] = "find"

    window: ListWindow
    is_wanted: Callable[[PaymentIntentView], bool]
    may_be_wanted: Callable[[PaymentIntentView], bool]
    named: NamedPayments


@dataclass(frozen=True, slots=True)
class Cancel:
    label: ClassVar[str] = "cancel"

    payment_intent: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call to make for an attempt. Its answer counts only while the attempt still stands where it was `asked`."""

    tenant: str
    attempt: str
    asked: Asked
    customer: str
    payment_intent: str | None
    what: Charge | Retrieve | Find | Cancel


async def make(call: Call, gateway: StripeGateway, pace: Pace) -> Answer:
    """Makes the call, whose turn it is. A refused charge is followed by a look at its card and customer, a refused
    cancellation by one at what has become of the PaymentIntent."""
    match call.what:
        case Charge(last, parameters):
            if last.creates:
                answer = await gateway.create(parameters, last.idempotency_key)
            else:
                assert call.payment_intent is not None
                answer = await gateway.confirm(call.payment_intent, parameters, last.idempotency_key)
            if isinstance(answer, Refused) or (last.creates and isinstance(answer, NotFound)):
                await pace.turn()
                answer = await gateway.explain(answer, last.payment_method, call.customer)
            return answer
        case Retrieve(payment_intent):
            return await gateway.retrieve(payment_intent)
        case Find(window, is_wanted, may_be_wanted, _):
            return await gateway.find(window.customer, window.created_since, is_wanted, may_be_wanted)
        case Cancel(payment_intent):
            answer = await gateway.cancel(payment_intent)
            if isinstance(answer, LookAgain):
                await pace.turn()
                answer = await gateway.retrieve(payment_intent)
            return answer
    assert_never(call.what)


def charge_parameters(attempt: Attempt, one: Try, signing_key: str) -> dict[str, Any]:
    """What a new try is called with; kept with it, since the same key with other parameters is an error at Stripe."""
    if not one.creates:
        return {"payment_method": one.payment_method, "off_session": True}
    order = CreditOrder(
        tenant=attempt.tenant_id,
        credits=attempt.credits,
        amount_minor=attempt.amount_minor,
        currency=attempt.currency,
        expires_in_days=attempt.expires_in_days,
        attempt=attempt.attempt,
    )
    return {
        "amount": attempt.amount_minor,
        "currency": attempt.currency,
        "customer": attempt.stripe_customer,
        "payment_method": one.payment_method,
        "payment_method_types": ["card"],
        "off_session": True,
        "confirm": True,
        "metadata": sign(order, signing_key),
    }
