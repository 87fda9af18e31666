"""What PaymentIntents and SetupIntents have in common: their parameters' rules, client secrets, next actions."""

from stripe_simulator.account import Account, snapshot
from stripe_simulator.contract import Json
from stripe_simulator.errors import InvalidRequest
from stripe_simulator.ids import new_id, new_secret
from stripe_simulator.resources.call import Call
from stripe_simulator.resources.payment_methods import create_from_data, resolve_for

# What a publishable key sees of an intent: nothing of the customer, the metadata or the charge.
_PUBLIC_FIELDS_LISTED = (
    "id object amount amount_details automatic_payment_methods canceled_at cancellation_reason capture_method "
    "client_secret confirmation_method created currency description last_payment_error last_setup_error livemode "
    "next_action payment_method payment_method_configuration_details payment_method_types processing receipt_email "
    "setup_future_usage shipping source status usage"
)
_PUBLIC_FIELDS = frozenset(_PUBLIC_FIELDS_LISTED.split())


_SUPPORTED_TYPES = ("card", "link")


def payment_method_fields(params: Json) -> Json:
    """Which payment methods a new intent takes: the types named, else automatic ones, narrowed by those allowed."""
    automatic: Json | None = params.get("automatic_payment_methods")
    allowed: list[str] | None = params.get("allowed_payment_method_types")
    types: list[str] | None = params.get("payment_method_types")
    if automatic is not None and automatic["enabled"] and types is not None:
        raise InvalidRequest(
            "You may only specify one of these parameters: automatic_payment_methods, payment_method_types.",
            param="automatic_payment_methods",
        )
    for param, named in (("payment_method_types", types), ("allowed_payment_method_types", allowed)):
        if named is not None and not set(named) & set(_SUPPORTED_TYPES):
            raise InvalidRequest(
                f"The simulator takes payment method types card and link only, not {', '.join(named)}.", param=param
            )
    if types is None and (automatic is None or automatic["enabled"]):
        redirects = (automatic or {}).get("allow_redirects", "always")
        automatic = {"allow_redirects": redirects, "enabled": True}
        types = [name for name in _SUPPORTED_TYPES if allowed is None or name in allowed]
    else:
        automatic = None
        types = types or ["card"]
    return {
        "allowed_payment_method_types": allowed,
        "automatic_payment_methods": automatic,
        "payment_method_types": types,
    }


def check_return_url(intent: Json, params: Json, *, publishable: bool) -> None:
    """Confirming needs `return_url` while methods that redirect are allowed. Stripe.js brings its own."""
    automatic: Json | None = intent["automatic_payment_methods"]
    may_redirect = (
        automatic is not None
        and automatic["allow_redirects"] != "never"
        and intent["allowed_payment_method_types"] is None
    )
    if publishable or not may_redirect or params.get("return_url"):
        return
    kind = "PaymentIntent" if intent["object"] == "payment_intent" else "SetupIntent"
    raise InvalidRequest(
        f"This {kind} is configured to accept payment methods enabled in your Dashboard. Because some of these "
        "payment methods might redirect your customer off of your page, you must provide a `return_url`. If you don't "
        "want to accept redirect-based payment methods, set `automatic_payment_methods[enabled]` to `true` and "
        "`automatic_payment_methods[allow_redirects]` to `never` when creating Setup Intents and Payment Intents.",
        param="return_url",
    )


def given_payment_method(account: Account, params: Json, customer_id: str | None, kind: str) -> Json | None:
    """The payment method that the parameters name or describe, if they do."""
    if "payment_method_data" in params:
        return create_from_data(account, params["payment_method_data"])
    if "payment_method" in params:
        return resolve_for(account, params["payment_method"], customer_id, kind)
    return None


def check_client_secret(call: Call, intent: Json) -> None:
    """A publishable key must show the intent's client secret; a secret key may."""
    given = call.params.get("client_secret")
    if given == intent["client_secret"] or (given is None and not call.publishable):
        return
    if given is None:
        raise InvalidRequest("Missing required param: client_secret.", code="parameter_missing", param="client_secret")
    raise InvalidRequest(
        f"The client_secret provided does not match any associated {intent['object']} on this account.",
        status=404,
        code="resource_missing",
        param="client_secret",
    )


def seen_by(call: Call, intent: Json) -> Json:
    """The intent as the caller's key may see it."""
    if not call.publishable:
        return intent
    return {key: value for key, value in intent.items() if key in _PUBLIC_FIELDS}


def new_identity(prefix: str) -> Json:
    intent_id = new_id(prefix)
    return {"id": intent_id, "client_secret": f"{intent_id}_secret_{new_secret(25)}"}


def next_action(intent: Json, return_url: str | None) -> Json:
    """What the customer must do: authenticate, by redirect if there is somewhere to return to."""
    where = f"https://hooks.stripe.com/3d_secure_2/hosted?intent={intent['id']}"
    if return_url:
        return {"redirect_to_url": {"return_url": return_url, "url": where}, "type": "redirect_to_url"}
    return {
        "type": "use_stripe_sdk",
        "use_stripe_sdk": {"source": new_id("src"), "stripe_js": where, "type": "three_d_secure_redirect"},
    }


def unexpected_state(intent: Json, message: str) -> InvalidRequest:
    """400: the intent's status does not allow this. The intent is in the error."""
    kind = intent["object"]
    error = InvalidRequest(message, code=f"{kind}_unexpected_state")
    error.error[kind] = snapshot(intent)
    return error
