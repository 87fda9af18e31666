"""SetupIntents: getting a card ready to be charged later without its holder."""

from typing import assert_never

from stripe_simulator.account import Account, snapshot
from stripe_simulator.cards.behaviour import (
    SETUP_AUTHENTICATION_FAILED_CODE,
    Decline,
    Outcome,
    decide_setup,
)
from stripe_simulator.contract import Json
from stripe_simulator.errors import CardError, InvalidRequest
from stripe_simulator.ids import new_id
from stripe_simulator.resources.call import Call, listing
from stripe_simulator.resources.intents import (
    check_client_secret,
    check_return_url,
    given_payment_method,
    new_identity,
    next_action,
    payment_method_fields,
    seen_by,
    unexpected_state,
)
from stripe_simulator.resources.metadata import merged
from stripe_simulator.resources.payment_methods import attach_to, behaviour_now, card_error, require_customer

_OPEN = ("requires_payment_method", "requires_confirmation", "requires_action")


def create(account: Account, call: Call) -> Json:
    params = call.params
    customer_id: str | None = params.get("customer")
    if customer_id is not None:
        require_customer(account, customer_id)
    methods = payment_method_fields(params)
    confirm = params.get("confirm", False)
    if confirm:
        check_return_url({"object": "setup_intent"} | methods, params, publishable=False)
        if "payment_method" not in params and "payment_method_data" not in params:
            raise InvalidRequest(
                "You cannot confirm this SetupIntent because it's missing a payment method.",
                code="setup_intent_unexpected_state",
            )
    metadata = merged({}, params.get("metadata"))
    method = given_payment_method(account, params, customer_id, "SetupIntent")
    intent = account.contract.blank("setup_intent")
    intent |= new_identity("seti") | methods
    intent |= {
        "created": account.clock.now(),
        "customer": customer_id,
        "description": params.get("description"),
        "metadata": metadata,
        "payment_method": method["id"] if method else None,
        "payment_method_options": {
            "card": {"mandate_options": None, "network": None, "request_three_d_secure": "automatic"}
        },
        "status": "requires_confirmation" if method else "requires_payment_method",
        "usage": params.get("usage", "off_session"),
    }
    account.setup_intents.add(intent)
    account.emit("setup_intent.created", intent)
    if confirm and method is not None:
        _confirm(account, intent, method, params.get("return_url"))
    return intent


def retrieve(account: Account, call: Call) -> Json:
    intent = account.require(account.setup_intents, call.path["intent"], "intent")
    check_client_secret(call, intent)
    return seen_by(call, intent)


def update(account: Account, call: Call) -> Json:
    intent = account.require(account.setup_intents, call.path["intent"], "intent")
    params = call.params
    if intent["status"] not in _OPEN and params.keys() - {"metadata", "description", "expand"}:
        raise unexpected_state(
            intent, f"You cannot update this SetupIntent because it has a status of {intent['status']}."
        )
    metadata = merged(intent["metadata"], params.get("metadata"))
    customer_id: str | None = params.get("customer", intent["customer"])
    if customer_id is not None:
        require_customer(account, customer_id)
    method = given_payment_method(account, params, customer_id, "SetupIntent")
    if "customer" in params:
        account.setup_intents.change_indexed(intent, "customer", customer_id)
    if "description" in params:
        intent["description"] = params["description"] or None
    intent["metadata"] = metadata
    if method is not None:
        account.setup_intents.change_indexed(intent, "payment_method", method["id"])
        intent |= {"status": "requires_confirmation", "next_action": None}
    return intent


def confirm(account: Account, call: Call) -> Json:
    intent = account.require(account.setup_intents, call.path["intent"], "intent")
    check_client_secret(call, intent)
    if intent["status"] not in _OPEN:
        raise unexpected_state(
            intent,
            f"You cannot confirm this SetupIntent because it has a status of {intent['status']}. Only a SetupIntent "
            f"with one of the following statuses may be confirmed: {', '.join(_OPEN)}.",
        )
    params = call.params
    check_return_url(intent, params, publishable=call.publishable)
    if "payment_method" not in params and "payment_method_data" not in params:
        if intent["payment_method"] is None:
            raise unexpected_state(
                intent,
                "You cannot confirm this SetupIntent because it's missing a payment method. Update the SetupIntent "
                "with a payment method and then confirm it again.",
            )
        params = params | {"payment_method": intent["payment_method"]}
    method = given_payment_method(account, params, intent["customer"], "SetupIntent")
    assert method is not None
    _confirm(account, intent, method, params.get("return_url"))
    return seen_by(call, intent)


def cancel(account: Account, call: Call) -> Json:
    intent = account.require(account.setup_intents, call.path["intent"], "intent")
    if intent["status"] not in _OPEN:
        raise unexpected_state(
            intent,
            f"You cannot cancel this SetupIntent because it has a status of {intent['status']}. Only a SetupIntent "
            f"with one of the following statuses may be canceled: {', '.join(_OPEN)}.",
        )
    intent |= {
        "cancellation_reason": call.params.get("cancellation_reason"),
        "next_action": None,
        "status": "canceled",
    }
    account.emit("setup_intent.canceled", intent)
    return intent


def listed(account: Account, call: Call) -> Json:
    return listing(account.setup_intents, call, "/v1/setup_intents", filters=["payment_method", "customer"])


def finish_authentication(account: Account, intent: Json, *, authenticated: bool) -> None:
    """The customer has authenticated, or failed to."""
    method = account.payment_methods.get(intent["payment_method"])
    assert method is not None
    intent["next_action"] = None
    try:
        if not authenticated:
            _fail(account, intent, method, _authentication_failed())
        outcome = decide_setup(behaviour_now(account, method), authenticated=True)
        _carry_out(account, intent, method, outcome, None)
    except CardError:
        return


def _confirm(account: Account, intent: Json, method: Json, return_url: str | None) -> None:
    account.setup_intents.change_indexed(intent, "payment_method", method["id"])
    intent |= {"latest_attempt": new_id("setatt"), "next_action": None}
    outcome = decide_setup(behaviour_now(account, method), authenticated=False)
    _carry_out(account, intent, method, outcome, return_url)


def _carry_out(
    account: Account, intent: Json, method: Json, outcome: Outcome | Decline, return_url: str | None
) -> None:
    match outcome:
        case Decline():
            _fail(account, intent, method, outcome)
        case Outcome.NEEDS_AUTHENTICATION:
            intent |= {"status": "requires_action", "next_action": next_action(intent, return_url)}
            account.emit("setup_intent.requires_action", intent)
        case Outcome.APPROVED | Outcome.PROCESSING:
            intent |= {"last_setup_error": None, "status": "succeeded"}
            if intent["usage"] == "off_session":
                account.cards[method["id"]].set_up_for_off_session = True
            if intent["customer"] is not None and method["customer"] is None:
                attach_to(account, method, intent["customer"])
            account.emit("setup_intent.succeeded", intent)
        case _:
            assert_never(outcome)


def _fail(account: Account, intent: Json, method: Json, declined: Decline) -> None:
    error = card_error(declined, payment_method=snapshot(method))
    account.setup_intents.change_indexed(intent, "payment_method", None)
    intent |= {"last_setup_error": dict(error.error), "status": "requires_payment_method"}
    error.error["setup_intent"] = snapshot(intent)
    account.emit("setup_intent.setup_failed", intent)
    raise error


def _authentication_failed() -> Decline:
    return Decline(
        SETUP_AUTHENTICATION_FAILED_CODE,
        "The latest attempt to set up the payment method has failed because authentication failed.",
    )
