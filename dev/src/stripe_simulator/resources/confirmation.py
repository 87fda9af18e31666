"""Charging a card for a PaymentIntent: what each outcome changes, and which events it causes."""

from typing import assert_never

from stripe_simulator.account import Account, snapshot
from stripe_simulator.cards.behaviour import (
    AUTHENTICATION_FAILED_CODE,
    AUTHENTICATION_REQUIRED,
    Behaviour,
    Decline,
    Outcome,
    decide_charge,
)
from stripe_simulator.contract import Json
from stripe_simulator.errors import CardError
from stripe_simulator.resources import charges, disputes
from stripe_simulator.resources.intents import next_action
from stripe_simulator.resources.payment_methods import attach_to, behaviour_now, card_error


def confirm_intent(account: Account, intent: Json, method: Json, params: Json) -> None:
    """Charge the payment method. A decline raises the 402 after it has changed the intent."""
    off_session = bool(params.get("off_session"))
    behaviour = behaviour_now(account, method)
    outcome = decide_charge(
        behaviour,
        off_session=off_session,
        set_up=account.cards[method["id"]].set_up_for_off_session,
        authenticated=False,
    )
    intent |= {"payment_method": method["id"], "next_action": None}
    if outcome is Outcome.NEEDS_AUTHENTICATION and params.get("error_on_requires_action"):
        outcome = AUTHENTICATION_REQUIRED
    _carry_out(account, intent, method, behaviour, outcome, return_url=params.get("return_url"))


def finish_authentication(account: Account, intent: Json, *, authenticated: bool) -> None:
    """The customer has authenticated, or failed to; the answer goes to the customer's browser, so nothing is raised."""
    method = account.payment_methods.get(intent["payment_method"])
    assert method is not None
    intent["next_action"] = None
    try:
        if not authenticated:
            _fail(account, intent, method, _authentication_failed(), charge_made=False)
        behaviour = behaviour_now(account, method)
        outcome = decide_charge(behaviour, off_session=False, set_up=True, authenticated=True)
        _carry_out(account, intent, method, behaviour, outcome, return_url=None)
    except CardError:
        return


def settle_processing(account: Account, intent: Json, declined: Decline | None) -> None:
    """A `processing` payment has succeeded or been declined."""
    method = account.payment_methods.get(intent["payment_method"])
    assert method is not None
    if declined is None:
        _approve(account, intent, method, Behaviour())
        return
    try:
        _fail(account, intent, method, declined)
    except CardError:
        return


def _carry_out(
    account: Account,
    intent: Json,
    method: Json,
    behaviour: Behaviour,
    outcome: Outcome | Decline,
    *,
    return_url: str | None,
) -> None:
    match outcome:
        case Decline():
            _fail(account, intent, method, outcome)
        case Outcome.NEEDS_AUTHENTICATION:
            intent |= {"status": "requires_action", "next_action": next_action(intent, return_url)}
            account.emit("payment_intent.requires_action", intent)
        case Outcome.PROCESSING:
            intent |= {"status": "processing", "last_payment_error": None}
            account.emit("payment_intent.processing", intent)
        case Outcome.APPROVED:
            _approve(account, intent, method, behaviour)
        case _:
            assert_never(outcome)


def _approve(account: Account, intent: Json, method: Json, behaviour: Behaviour) -> None:
    captured = intent["capture_method"] != "manual"
    charge = charges.record(account, intent, method, None, captured=captured)
    intent |= {
        "amount_capturable": 0 if captured else intent["amount"],
        "amount_received": intent["amount"] if captured else 0,
        "last_payment_error": None,
        "latest_charge": charge["id"],
        "status": "succeeded" if captured else "requires_capture",
    }
    _save_method(account, intent, method)
    account.emit("charge.succeeded", charge)
    account.emit("payment_intent.succeeded" if captured else "payment_intent.amount_capturable_updated", intent)
    if behaviour.early_fraud_warning:
        disputes.warn_of_fraud(account, charge)
    if behaviour.dispute_reason is not None:
        disputes.open_dispute(account, charge, reason=behaviour.dispute_reason, inquiry=behaviour.dispute_is_inquiry)


def _save_method(account: Account, intent: Json, method: Json) -> None:
    """Keep the card with the customer if the intent asks for that; else a card without customer is used up."""
    state = account.cards[method["id"]]
    if intent["setup_future_usage"] == "off_session":
        state.set_up_for_off_session = True
    if method["customer"] is not None:
        return
    if intent["customer"] is not None and intent["setup_future_usage"]:
        attach_to(account, method, intent["customer"])
    else:
        state.used_up = True


def _fail(account: Account, intent: Json, method: Json, declined: Decline, *, charge_made: bool = True) -> None:
    charge = charges.record(account, intent, method, declined, captured=False) if charge_made else None
    error = card_error(declined, charge=charge["id"] if charge else None, payment_method=snapshot(method))
    intent |= {
        "last_payment_error": dict(error.error),
        "latest_charge": charge["id"] if charge else intent["latest_charge"],
        "payment_method": None,
        "status": "requires_payment_method",
    }
    error.error["payment_intent"] = snapshot(intent)
    if charge:
        account.emit("charge.failed", charge)
    account.emit("payment_intent.payment_failed", intent)
    raise error


def _authentication_failed() -> Decline:
    return Decline(
        AUTHENTICATION_FAILED_CODE,
        "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new "
        "PaymentMethod to attempt to fulfill this PaymentIntent again.",
    )
