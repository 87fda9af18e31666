"""Events, listed and retrieved."""

from stripe_simulator.account import Account
from stripe_simulator.collection import PageQuery
from stripe_simulator.contract import Json
from stripe_simulator.errors import InvalidRequest
from stripe_simulator.resources.call import Call

_TYPES_MAX = 20


def retrieve(account: Account, call: Call) -> Json:
    return account.require(account.events, call.path["id"], "id")


def listed(account: Account, call: Call) -> Json:
    """Events newest first; `delivery_success=false` means not yet delivered to every endpoint that wants them."""
    params = call.params
    if "type" in params and "types" in params:
        raise InvalidRequest("You may only specify one of these parameters: type, types.", param="types")
    types: list[str] = params.get("types") or ([params["type"]] if "type" in params else [])
    if len(types) > _TYPES_MAX:
        raise InvalidRequest(f"You may only specify up to {_TYPES_MAX} types.", param="types")
    delivered: bool | None = params.get("delivery_success")

    def keep(event: Json) -> bool:
        if types and not any(_matches(event["type"], wanted) for wanted in types):
            return False
        return delivered is None or delivered == (not account.event_records[event["id"]].undelivered_to)

    where: tuple[str, list[str]] | None = None
    if delivered is not None:
        where = ("_delivered", ["yes" if delivered else "no"])
    elif types and not any(wanted.endswith("*") for wanted in types):
        where = ("type", types)
    page, has_more = account.events.page(PageQuery.of(params), where=where, keep=keep)
    return {"object": "list", "data": page, "has_more": has_more, "url": "/v1/events"}


def _matches(event_type: str, wanted: str) -> bool:
    """Stripe takes `charge.*` for every type that begins so."""
    return event_type.startswith(wanted[:-1]) if wanted.endswith("*") else event_type == wanted
