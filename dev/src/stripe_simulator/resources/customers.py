"""Customers."""

from stripe_simulator.account import Account, snapshot
from stripe_simulator.contract import Json
from stripe_simulator.errors import InvalidRequest
from stripe_simulator.ids import new_id, new_secret
from stripe_simulator.resources.call import Call, listing
from stripe_simulator.resources.metadata import merged
from stripe_simulator.resources.payment_methods import (
    attach_to,
    changes,
    check_not_used_up,
    detach_from_customer,
    resolve,
)

_PLAIN = ("address", "balance", "description", "name", "phone", "preferred_locales", "shipping", "tax_exempt")


def create(account: Account, call: Call) -> Json:
    params = call.params
    customer = account.contract.blank("customer")
    customer |= {
        "id": new_id("cus", 14),
        "created": account.clock.now(),
        "delinquent": False,
        "invoice_prefix": new_secret(8).upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "metadata": {},
        "preferred_locales": [],
        "tax_exempt": "none",
    }
    method = resolve(account, params["payment_method"]) if "payment_method" in params else None
    if method is not None:
        if method["customer"] is not None:
            raise InvalidRequest("The payment method you provided has already been attached to a customer.")
        check_not_used_up(account, method)
    metadata = merged({}, params.get("metadata"))
    default = (params.get("invoice_settings") or {}).get("default_payment_method")
    if default and (method is None or default not in (method["id"], params["payment_method"])):
        raise _default_not_attached(default)
    account.customers.add(customer)
    _set_plain_fields(account, customer, params)
    customer["metadata"] = metadata
    account.emit("customer.created", customer)
    if method is not None:
        attach_to(account, method, customer["id"])
        if default:
            customer["invoice_settings"]["default_payment_method"] = method["id"]
    return customer


def retrieve(account: Account, call: Call) -> Json:
    customer = account.require(account.customers, call.path["customer"], "id")
    return _deleted(customer["id"]) if customer.get("deleted") else customer


def update(account: Account, call: Call) -> Json:
    customer = _living(account, call)
    params = call.params
    metadata = merged(customer["metadata"], params.get("metadata"))
    settings: Json = params.get("invoice_settings") or {}
    default = settings.get("default_payment_method")
    if default:
        method = account.payment_methods.get(default)
        if method is None or method["customer"] != customer["id"]:
            raise _default_not_attached(default)
    previous = snapshot(customer)
    _set_plain_fields(account, customer, params)
    if "default_payment_method" in settings:
        customer["invoice_settings"]["default_payment_method"] = default or None
    customer["metadata"] = metadata
    account.emit("customer.updated", customer, changes(previous, customer))
    return customer


def delete(account: Account, call: Call) -> Json:
    customer = _living(account, call)
    for method in account.payment_methods.having("customer", customer["id"]):
        detach_from_customer(account, method)
    account.emit("customer.deleted", customer)
    account.customers.unlist(customer)
    customer["deleted"] = True
    return _deleted(customer["id"])


def listed(account: Account, call: Call) -> Json:
    return listing(account.customers, call, "/v1/customers", filters=["email"])


def _living(account: Account, call: Call) -> Json:
    customer = account.require(account.customers, call.path["customer"], "id")
    if customer.get("deleted"):
        raise InvalidRequest(f"No such customer: '{customer['id']}'", status=404, code="resource_missing", param="id")
    return customer


def _deleted(customer_id: str) -> Json:
    return {"id": customer_id, "object": "customer", "deleted": True}


def _set_plain_fields(account: Account, customer: Json, params: Json) -> None:
    for field in _PLAIN:
        if field in params:
            customer[field] = None if params[field] == "" else params[field]
    if "email" in params:
        account.customers.change_indexed(customer, "email", params["email"] or None)


def _default_not_attached(payment_method: str) -> InvalidRequest:
    return InvalidRequest(
        f"The customer does not have a payment method with the ID {payment_method}. The payment method must be "
        "attached to the customer.",
        code="resource_missing",
        param="invoice_settings[default_payment_method]",
    )
