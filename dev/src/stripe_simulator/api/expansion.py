"""`expand[]`: ids in an answer replaced by the objects they name (https://docs.stripe.com/api/expanding_objects)."""

from typing import Any

from stripe_simulator.account import Account
from stripe_simulator.contract import Contract, Json
from stripe_simulator.errors import InvalidRequest

_DEPTH_MAX = 4


def check_expandable(contract: Contract, kind: str | None, paths: list[str]) -> None:
    """Refuse, before anything is executed, what an answer of this kind can't expand."""
    for path in paths:
        steps = path.split(".")
        if len(steps) > _DEPTH_MAX:
            raise InvalidRequest(
                f"You cannot expand more than {_DEPTH_MAX} levels of a property. Property: {path}", param="expand"
            )
        first = steps[1] if steps[0] == "data" and len(steps) > 1 else steps[0]
        if kind is not None and first not in contract.objects[kind]["expandable"]:
            raise InvalidRequest(f"This property cannot be expanded ({path}).", param="expand")


def expanded(account: Account, answer: Json, paths: list[str]) -> Json:
    """The answer with every path expanded; what is null or already an object stays. The account is not changed."""
    for path in paths:
        answer = _expand(account, answer, path.split("."))
    return answer


def _expand(account: Account, node: Json, steps: list[str]) -> Json:
    step, rest = steps[0], steps[1:]
    if step == "refunds" and node.get("object") == "charge":
        refunds = account.refunds.having("charge", node["id"])[::-1]
        url = f"/v1/charges/{node['id']}/refunds"
        return node | {"refunds": {"object": "list", "data": refunds, "has_more": False, "url": url}}
    return node | {step: _expand_value(account, node[step], rest)} if step in node else node


def _expand_value(account: Account, value: Any, rest: list[str]) -> Any:
    if isinstance(value, list):
        return [_expand_value(account, item, rest) for item in value]
    if isinstance(value, str):
        value = account.find(value) or value
    return _expand(account, value, rest) if rest and isinstance(value, dict) else value
