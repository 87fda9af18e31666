"""Balance transactions: every movement of the account's money, with Stripe's fee on charges."""

from stripe_simulator.account import Account
from stripe_simulator.contract import Json
from stripe_simulator.ids import new_id
from stripe_simulator.resources.call import Call, listing

_FEE_PER_MILLE, _FEE_FIXED_MINOR = 29, 30
_DAYS_UNTIL_AVAILABLE = 2
_REPORTING = {"adjustment": "dispute", "payment_failure_refund": "charge_failure", "refund_failure": "refund_failure"}


def move(account: Account, transaction_type: str, source: str, amount_minor: int, currency: str) -> Json:
    """Book an amount (negative: away from the account). Charges pay 2.9 % and 30 minor units."""
    fee = amount_minor * _FEE_PER_MILLE // 1000 + _FEE_FIXED_MINOR if transaction_type == "charge" else 0
    now = account.clock.now()
    transaction = account.contract.blank("balance_transaction")
    transaction |= {
        "id": new_id("txn"),
        "amount": amount_minor,
        "available_on": now + _DAYS_UNTIL_AVAILABLE * 86_400,
        "created": now,
        "currency": currency,
        "description": None,
        "fee": fee,
        "fee_details": [
            {"amount": fee, "application": None, "currency": currency, "description": "Stripe processing fees",
             "type": "stripe_fee"}
        ] if fee else [],
        "net": amount_minor - fee,
        "reporting_category": _REPORTING.get(transaction_type, transaction_type),
        "source": source,
        "status": "pending",
        "type": transaction_type,
    }  # fmt: skip
    return account.balance_transactions.add(transaction)


def listed(account: Account, call: Call) -> Json:
    currency = call.params.get("currency")
    now = account.clock.now()

    def keep(transaction: Json) -> bool:
        return currency in (None, transaction["currency"])

    page = listing(
        account.balance_transactions, call, "/v1/balance_transactions", filters=["source", "type"], keep=keep
    )
    for transaction in page["data"]:
        transaction["status"] = "available" if transaction["available_on"] <= now else "pending"
    return page
