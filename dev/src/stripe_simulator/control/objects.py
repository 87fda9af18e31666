"""Control routes for what customers and banks do: authenticate, dispute, update cards, let refunds fail."""

from dataclasses import replace
from typing import Literal

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field

from stripe_simulator.account import Account, snapshot
from stripe_simulator.cards.behaviour import Authentication, Decline
from stripe_simulator.cards.catalogue import decline
from stripe_simulator.contract import Json
from stripe_simulator.control.access import TheSimulator, conflict, found
from stripe_simulator.resources import confirmation, disputes, refunds, setup_intents
from stripe_simulator.resources.payment_methods import changes

router = APIRouter()


class Authenticate(BaseModel, extra="forbid"):
    succeeds: bool = True


class SettlePayment(BaseModel, extra="forbid"):
    decline_code: str | None = Field(None, description="Why it is declined after all; null when it comes through.")


class OpenDispute(BaseModel, extra="forbid"):
    reason: str = "fraudulent"
    inquiry: bool = Field(False, description="A `warning_*` dispute, which withdraws nothing.")
    amount_minor: int | None = Field(None, ge=1, description="Part of the charge; all of it when null.")


class ResolveDispute(BaseModel, extra="forbid"):
    outcome: Literal["won", "lost", "warning_closed"]


class SettleRefund(BaseModel, extra="forbid"):
    outcome: Literal["succeeded", "failed"]
    reason: str = "unknown"


class CardBehaviour(BaseModel, extra="forbid"):
    decline_code: str | None = Field(None, description="`insufficient_funds` and the like; null to be approved.")
    advice_code: str | None = Field(None, description="Instead of the advice that Stripe gives for the decline code.")
    authentication: Authentication = Authentication.NEVER
    processing: bool = Field(False, description="Charges stay `processing` until they are settled.")
    count: int | None = Field(None, ge=1, description="For how many uses; null from now on.")


class CardUpdate(BaseModel, extra="forbid"):
    exp_month: int = Field(12, ge=1, le=12)
    exp_year: int = Field(2040, ge=2000, le=2099)
    last4: str | None = Field(None, pattern=r"^\d{4}$")


@router.post("/payment_intents/{intent_id}/authenticate", summary="The customer completes or fails 3D Secure.")
async def authenticate_payment(intent_id: str, wanted: Authenticate, simulator: TheSimulator) -> Json:
    intent = _awaiting(found(simulator.account.payment_intents, intent_id), "requires_action")
    confirmation.finish_authentication(simulator.account, intent, authenticated=wanted.succeeds)
    return _published(simulator, intent)


@router.post("/setup_intents/{intent_id}/authenticate", summary="The customer completes or fails 3D Secure.")
async def authenticate_setup(intent_id: str, wanted: Authenticate, simulator: TheSimulator) -> Json:
    intent = _awaiting(found(simulator.account.setup_intents, intent_id), "requires_action")
    setup_intents.finish_authentication(simulator.account, intent, authenticated=wanted.succeeds)
    return _published(simulator, intent)


@router.post("/payment_intents/{intent_id}/settle", summary="A processing payment comes through, or is declined.")
async def settle_payment(intent_id: str, wanted: SettlePayment, simulator: TheSimulator) -> Json:
    intent = _awaiting(found(simulator.account.payment_intents, intent_id), "processing")
    declined = decline(wanted.decline_code) if wanted.decline_code else None
    confirmation.settle_processing(simulator.account, intent, declined)
    return _published(simulator, intent)


@router.post("/charges/{charge_id}/dispute", summary="The cardholder disputes a charge (or a PaymentIntent's charge).")
async def dispute_charge(charge_id: str, wanted: OpenDispute, simulator: TheSimulator) -> Json:
    charge = _paid_charge(simulator.account, charge_id)
    if wanted.amount_minor is not None and wanted.amount_minor > charge["amount_captured"]:
        raise conflict(f"the charge took only {charge['amount_captured']}")
    dispute = disputes.open_dispute(
        simulator.account, charge, reason=wanted.reason, inquiry=wanted.inquiry, amount_minor=wanted.amount_minor
    )
    return _published(simulator, dispute)


@router.post("/disputes/{dispute_id}/resolve", summary="The bank decides a dispute.")
async def resolve_dispute(dispute_id: str, wanted: ResolveDispute, simulator: TheSimulator) -> Json:
    dispute = found(simulator.account.disputes, dispute_id)
    try:
        disputes.resolve(simulator.account, dispute, wanted.outcome)
    except ValueError as error:
        raise conflict(error) from error
    return _published(simulator, dispute)


@router.post("/disputes/{dispute_id}/escalate", summary="An inquiry becomes a chargeback.")
async def escalate_dispute(dispute_id: str, simulator: TheSimulator) -> Json:
    dispute = found(simulator.account.disputes, dispute_id)
    try:
        disputes.escalate(simulator.account, dispute)
    except ValueError as error:
        raise conflict(error) from error
    return _published(simulator, dispute)


@router.post("/charges/{charge_id}/early_fraud_warning", summary="The bank suspects fraud.")
async def warn(charge_id: str, simulator: TheSimulator) -> Json:
    charge = _paid_charge(simulator.account, charge_id)
    return _published(simulator, disputes.warn_of_fraud(simulator.account, charge))


@router.post("/refunds/{refund_id}/settle", summary="A refund reaches the card, or comes back.")
async def settle_refund(refund_id: str, wanted: SettleRefund, simulator: TheSimulator) -> Json:
    refund = found(simulator.account.refunds, refund_id)
    try:
        refunds.settle(simulator.account, refund, wanted.outcome, wanted.reason)
    except ValueError as error:
        raise conflict(error) from error
    return _published(simulator, refund)


@router.put("/payment_methods/{method_id}/behaviour", summary="How a card behaves from now on, or for some uses.")
async def set_behaviour(method_id: str, wanted: CardBehaviour, simulator: TheSimulator) -> Json:
    method = found(simulator.account.payment_methods, method_id)
    declined: Decline | None = decline(wanted.decline_code) if wanted.decline_code else None
    if declined is not None and wanted.advice_code is not None:
        declined = replace(declined, advice_code=wanted.advice_code)
    state = simulator.account.cards[method_id]
    state.override = replace(
        state.behaviour, decline=declined, authentication=wanted.authentication, processing=wanted.processing
    )
    state.override_uses_left = wanted.count
    return method


@router.delete("/payment_methods/{method_id}/behaviour", summary="Let a card behave as its number says again.")
async def clear_behaviour(method_id: str, simulator: TheSimulator) -> Json:
    method = found(simulator.account.payment_methods, method_id)
    state = simulator.account.cards[method_id]
    state.override = state.override_uses_left = None
    return method


@router.post("/payment_methods/{method_id}/automatic_update", summary="The bank has sent its customer a new card.")
async def update_card(method_id: str, wanted: CardUpdate, simulator: TheSimulator) -> Json:
    method = found(simulator.account.payment_methods, method_id)
    previous = snapshot(method)
    method["card"] |= wanted.model_dump(exclude_none=True)
    simulator.account.emit("payment_method.automatically_updated", method, changes(previous, method))
    return _published(simulator, method)


def _published(simulator: TheSimulator, item: Json) -> Json:
    simulator.publish()
    return item


def _awaiting(intent: Json, status: str) -> Json:
    if intent["status"] != status:
        raise conflict(f"{intent['id']} is {intent['status']}, not {status}")
    return intent


def _paid_charge(account: Account, charge_id: str) -> Json:
    """The charge with this id, or of the PaymentIntent with this id."""
    intent = account.payment_intents.get(charge_id)
    charge = found(account.charges, (intent["latest_charge"] or charge_id) if intent else charge_id)
    if not charge["captured"]:
        raise HTTPException(409, f"{charge['id']} took no money.")
    return charge
