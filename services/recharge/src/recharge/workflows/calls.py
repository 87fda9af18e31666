"""The calls to Stripe that an attempt may need, and the parameters of a charge.

`label` is the call's name in metrics and logs. It does not change with the name of the class.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, assert_never

from recharge.core.answers import Answer, NotFound, Refused, UnexpectedState
from recharge.core.attempts import Attempt, Checkpoint, Try
from recharge.core.proof import LedgerPayments
from recharge.core.reconcile import ListWindow
from recharge.stripe_gateway import StripeGateway
from recharge.workflows.rate_limiter import RateLimiter
from shared.signed_metadata import CreditOrder, sign
from shared.stripe_events import PaymentIntentView


@dataclass(frozen=True, slots=True)
class ChargeCall:
    """Creates and confirms a PaymentIntent, or confirms it again, under the last try's key.

    `was_in_doubt`: an earlier call under this key may have been executed.
    """

    label: ClassVar[str] = "charge"
    last: Try
    parameters: Mapping[str, Any]
    was_in_doubt: bool


@dataclass(frozen=True, slots=True)
class RetrieveCall:
    label: ClassVar[str] = "retrieve"
    payment_intent: str


@dataclass(frozen=True, slots=True)
class ListCall:
    """Lists the customer's PaymentIntents for the one that `is_wanted`, or one that `may_be_wanted`.

    `ledger_payments` are the payments that both predicates rely on.
    """

    label: ClassVar[str] = "find"
    window: ListWindow
    is_wanted: Callable[[PaymentIntentView], bool]
    may_be_wanted: Callable[[PaymentIntentView], bool]
    ledger_payments: LedgerPayments


@dataclass(frozen=True, slots=True)
class CancelCall:
    label: ClassVar[str] = "cancel"
    payment_intent: str


StripeCall = ChargeCall | RetrieveCall | ListCall | CancelCall


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call to make for an attempt. Its answer counts only while the attempt is still at the `checkpoint`."""

    tenant: str
    attempt: str
    checkpoint: Checkpoint
    customer: str
    payment_intent: str | None
    request: StripeCall


async def make_call(call: PreparedCall, gateway: StripeGateway, rate_limiter: RateLimiter) -> Answer:
    """Makes the call; the caller has acquired the rate limiter for it.

    After a refused charge it retrieves the card and the customer, after a refused cancellation the PaymentIntent.
    """
    match call.request:
        case ChargeCall(last, parameters):
            if last.creates:
                answer = await gateway.create(parameters, last.idempotency_key)
            else:
                assert call.payment_intent is not None
                answer = await gateway.confirm(call.payment_intent, parameters, last.idempotency_key)
            if isinstance(answer, Refused) or (last.creates and isinstance(answer, NotFound)):
                await rate_limiter.acquire()
                answer = await gateway.explain(answer, last.payment_method, call.customer)
            return answer
        case RetrieveCall(payment_intent):
            return await gateway.retrieve(payment_intent)
        case ListCall(window, is_wanted, may_be_wanted, _):
            return await gateway.find(window.customer, window.created_since, is_wanted, may_be_wanted)
        case CancelCall(payment_intent):
            answer = await gateway.cancel(payment_intent)
            if isinstance(answer, UnexpectedState):
                await rate_limiter.acquire()
                answer = await gateway.retrieve(payment_intent)
            return answer
    assert_never(call.request)


def charge_parameters(attempt: Attempt, one: Try, signing_key: str) -> dict[str, Any]:
    """The parameters of a new try's call. They are stored with the try: Stripe rejects a key with other parameters."""
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
