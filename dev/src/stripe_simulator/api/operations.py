"""The function that implements each operation of the contract."""

from collections.abc import Callable

from stripe_simulator.account import Account
from stripe_simulator.contract import Json
from stripe_simulator.resources import (
    balance,
    charges,
    customer_sessions,
    customers,
    disputes,
    events,
    payment_intents,
    payment_methods,
    refunds,
    setup_intents,
    webhook_endpoints,
)
from stripe_simulator.resources.call import Call

Operation = Callable[[Account, Call], Json]

OPERATIONS: dict[str, Operation] = {
    "GET /v1/balance_transactions": balance.listed,
    "GET /v1/charges": charges.listed,
    "GET /v1/charges/{charge}": charges.retrieve,
    "POST /v1/customer_sessions": customer_sessions.create,
    "GET /v1/customers": customers.listed,
    "POST /v1/customers": customers.create,
    "GET /v1/customers/{customer}": customers.retrieve,
    "POST /v1/customers/{customer}": customers.update,
    "DELETE /v1/customers/{customer}": customers.delete,
    "GET /v1/customers/{customer}/payment_methods": payment_methods.listed_of_customer,
    "GET /v1/disputes": disputes.listed,
    "GET /v1/disputes/{dispute}": disputes.retrieve,
    "POST /v1/disputes/{dispute}": disputes.update,
    "POST /v1/disputes/{dispute}/close": disputes.close,
    "GET /v1/events": events.listed,
    "GET /v1/events/{id}": events.retrieve,
    "GET /v1/payment_intents": payment_intents.listed,
    "POST /v1/payment_intents": payment_intents.create,
    "GET /v1/payment_intents/{intent}": payment_intents.retrieve,
    "POST /v1/payment_intents/{intent}": payment_intents.update,
    "POST /v1/payment_intents/{intent}/cancel": payment_intents.cancel,
    "POST /v1/payment_intents/{intent}/capture": payment_intents.capture,
    "POST /v1/payment_intents/{intent}/confirm": payment_intents.confirm,
    "GET /v1/payment_methods": payment_methods.listed,
    "POST /v1/payment_methods": payment_methods.create,
    "GET /v1/payment_methods/{payment_method}": payment_methods.retrieve,
    "POST /v1/payment_methods/{payment_method}": payment_methods.update,
    "POST /v1/payment_methods/{payment_method}/attach": payment_methods.attach,
    "POST /v1/payment_methods/{payment_method}/detach": payment_methods.detach,
    "GET /v1/refunds": refunds.listed,
    "POST /v1/refunds": refunds.create,
    "GET /v1/refunds/{refund}": refunds.retrieve,
    "POST /v1/refunds/{refund}": refunds.update,
    "GET /v1/setup_intents": setup_intents.listed,
    "POST /v1/setup_intents": setup_intents.create,
    "GET /v1/setup_intents/{intent}": setup_intents.retrieve,
    "POST /v1/setup_intents/{intent}": setup_intents.update,
    "POST /v1/setup_intents/{intent}/cancel": setup_intents.cancel,
    "POST /v1/setup_intents/{intent}/confirm": setup_intents.confirm,
    "GET /v1/webhook_endpoints": webhook_endpoints.listed,
    "POST /v1/webhook_endpoints": webhook_endpoints.create,
    "GET /v1/webhook_endpoints/{webhook_endpoint}": webhook_endpoints.retrieve,
    "POST /v1/webhook_endpoints/{webhook_endpoint}": webhook_endpoints.update,
    "DELETE /v1/webhook_endpoints/{webhook_endpoint}": webhook_endpoints.delete,
}
