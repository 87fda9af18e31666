"""Sales of credits at the simulator: paid PaymentIntents with signed orders."""

from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from shared.ids import new_id
from shared.signed_metadata import CreditOrder, sign

#: Payments in one request to the simulator.
TOGETHER_MAX = 500
TIMEOUT_S = 60.0
TENANTS = 20


@dataclass(frozen=True, slots=True)
class Sale:
    """A PaymentIntent that succeeded, and its event's body as Stripe sends it."""

    payment_intent: str
    order: CreditOrder
    body: bytes


def orders(count: int, tenants: Sequence[str] = ()) -> list[CreditOrder]:
    """Orders of a purchase each, of 100 credits for 10.00 USD, of the tenants in turn (20 new ones unless given)."""
    names = tenants or [new_id("load") for _ in range(TENANTS)]
    return [CreditOrder(names[n % len(names)], 100, 1_000, "usd", purchase=new_id("pur")) for n in range(count)]


def sell(stripe_url: str, wanted: Sequence[CreditOrder], signing_key: str) -> list[Sale]:
    """Creates a paid PaymentIntent for each order at the simulator, which sends no webhooks for them."""
    sales: list[Sale] = []
    with httpx.Client(base_url=stripe_url, timeout=TIMEOUT_S, trust_env=False) as simulator:
        for start in range(0, len(wanted), TOGETHER_MAX):
            part = wanted[start : start + TOGETHER_MAX]
            payments = [
                {"amount_minor": each.amount_minor, "currency": each.currency, "metadata": sign(each, signing_key)}
                for each in part
            ]
            answer = simulator.post("/_sim/payments", json={"payments": payments, "deliver": False})
            answer.raise_for_status()
            sales += [
                Sale(made["payment_intent"], order, made["event"].encode())
                for order, made in zip(part, answer.json(), strict=True)
            ]
    return sales
