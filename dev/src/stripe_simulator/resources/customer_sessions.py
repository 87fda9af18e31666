"""Customer sessions, with which Elements shows a customer's saved cards."""

from stripe_simulator.account import Account
from stripe_simulator.contract import Json
from stripe_simulator.errors import InvalidRequest
from stripe_simulator.ids import new_secret
from stripe_simulator.resources.call import Call
from stripe_simulator.resources.payment_methods import require_customer

_VALID_S = 1800


def create(account: Account, call: Call) -> Json:
    customer_id: str | None = call.params.get("customer")
    if customer_id is None:
        raise InvalidRequest("Missing required param: customer.", code="parameter_missing", param="customer")
    require_customer(account, customer_id)
    now = account.clock.now()
    session = account.contract.blank("customer_session")
    for component, asked in call.params["components"].items():
        session["components"][component] |= asked
    return session | {
        "client_secret": f"cuss_secret_{new_secret(50)}",
        "created": now,
        "customer": customer_id,
        "expires_at": now + _VALID_S,
    }
