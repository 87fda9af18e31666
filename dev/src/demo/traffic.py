"""Purchases that survive crashes of the stack: each call is repeated under its own key until it is answered."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import httpx

from demo.clients import Refused, Tenant
from shared.ids import new_id

ResultT = TypeVar("ResultT")

RETRY_TIMEOUT_S = 60.0
CUSTOMERS_AT_ONCE = 8


async def until_answered(call: Callable[[], Awaitable[ResultT]], timeout_s: float = RETRY_TIMEOUT_S) -> ResultT:
    """Repeats `call` as a client should: on a lost connection and on 5xx, with back-off, for `timeout_s` at most.

    `call` must be repeatable: the same Idempotency-Key or reference each time.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    delay_s = 0.05
    while True:
        try:
            return await call()
        except (httpx.TransportError, Refused) as error:
            if isinstance(error, Refused) and error.status not in {500, 502, 503, 504}:
                raise
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
        delay_s = min(2 * delay_s, 1.0)


async def purchase(tenant: Tenant, package: str) -> str:
    """Buys a package once with card 4242, repeating each call until it is answered; returns the PaymentIntent's id."""
    key = new_id("key")
    created = await until_answered(lambda: tenant.create_purchase(package, key=key))

    async def pay() -> None:
        try:
            await tenant.pay_in_browser(created)
        except Refused as refused:  # an earlier call succeeded and its answer was lost
            if refused.problem.get("error", {}).get("code") != "payment_intent_unexpected_state":
                raise

    await until_answered(pay)
    return str(created["paymentIntentId"])


async def purchases(
    tenants: Sequence[Tenant], count: int, package: str, *, pause_s: float = 0.0, at_once: int = CUSTOMERS_AT_ONCE
) -> list[str]:
    """`count` purchases, spread over the tenants; returns the PaymentIntents' ids."""
    slots = asyncio.Semaphore(at_once)

    async def one(number: int) -> str:
        async with slots:
            payment_intent = await purchase(tenants[number % len(tenants)], package)
            await asyncio.sleep(pause_s)
            return payment_intent

    return list(await asyncio.gather(*(one(number) for number in range(count))))
