"""A control route that creates many payments at once, for a load generator or a long test."""

from typing import Any

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from stripe_simulator.account import Account
from stripe_simulator.contract import Json
from stripe_simulator.control.access import TheSimulator
from stripe_simulator.errors import InvalidRequest
from stripe_simulator.resources import payment_intents
from stripe_simulator.resources.call import Call
from stripe_simulator.resources.metadata import merged
from stripe_simulator.resources.money import check_amount, check_currency

router = APIRouter()

PAYMENTS_MAX = 1_000


class Payment(BaseModel, extra="forbid"):
    amount_minor: int = Field(ge=1)
    currency: str = "usd"
    metadata: dict[str, str] = {}


class MakePayments(BaseModel, extra="forbid"):
    payments: list[Payment] = Field(min_length=1, max_length=PAYMENTS_MAX)
    deliver: bool = Field(True, description="Whether webhooks are sent; if not, whoever asked sends the events.")


@router.post("/payments", summary="Cards pay so many PaymentIntents, at once.")
async def make_payments(wanted: MakePayments, simulator: TheSimulator) -> list[dict[str, Any]]:
    """In the order asked: each PaymentIntent, and the body of its `payment_intent.succeeded` as it is sent."""
    account = simulator.account
    try:
        for payment in wanted.payments:  # all of them first, so that a refusal leaves nothing behind
            check_amount(payment.amount_minor, check_currency(payment.currency))
            merged({}, payment.metadata)
    except InvalidRequest as error:
        raise HTTPException(422, str(error)) from error
    simulator.publish()  # what others have done is theirs to send
    intents = [_paid(account, payment) for payment in wanted.payments]
    succeeded = {
        record.event["data"]["object"]["id"]: record.body
        for record in account.peek_outgoing()
        if record.event["type"] == "payment_intent.succeeded"
    }
    if not wanted.deliver:
        for record in account.take_outgoing():
            for endpoint in list(record.undelivered_to):
                account.mark_delivered(record, endpoint)
    simulator.publish()
    return [{"payment_intent": intent["id"], "event": succeeded[intent["id"]].decode()} for intent in intents]


def _paid(account: Account, payment: Payment) -> Json:
    params: Json = {
        "amount": payment.amount_minor, "currency": payment.currency, "metadata": payment.metadata,
        "payment_method": "pm_card_visa", "payment_method_types": ["card"], "confirm": True,
    }  # fmt: skip
    return payment_intents.create(account, Call({}, params))
