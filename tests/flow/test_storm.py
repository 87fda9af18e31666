"""Webhooks shuffled and repeated, with workers coming and going: the same balances as once and in order."""

import asyncio
import random
from collections.abc import Sequence

import httpx

from demo.clients import Tenant
from embedded.environment import DEVELOPMENT_SIGNING_KEY, SIMULATOR_SECRET_KEY
from embedded.stack import LEDGER_WORKER, PAYMENTS_WORKER, RECHARGE_WORKER
from shared.ids import new_id
from shared.signed_metadata import CreditOrder, sign

TENANTS = 50
PURCHASES_EACH = 4
WEBHOOKS_MIN = 1_000
COPIES = 2


async def _stripe(http: httpx.AsyncClient, url: str, path: str, **form: str) -> dict[str, object]:
    response = await http.post(
        f"{url}/v1{path}", data=form, headers={"Authorization": f"Bearer {SIMULATOR_SECRET_KEY}"}
    )
    response.raise_for_status()
    return response.json()


async def _history(http: httpx.AsyncClient, url: str, tenant: Tenant, chance: random.Random) -> None:
    """Four purchases, of which one is refunded in two parts, one wholly, and one is disputed."""
    names: list[str] = []
    for number in range(PURCHASES_EACH):
        order = CreditOrder(tenant.name, 100 + number, 1_000 + number, "usd", purchase=new_id("pur"))
        metadata = {f"metadata[{name}]": value for name, value in sign(order, DEVELOPMENT_SIGNING_KEY).items()}
        intent = await _stripe(
            http, url, "/payment_intents",
            amount=str(order.amount_minor), currency="usd", payment_method="pm_card_visa", confirm="true",
            **{"automatic_payment_methods[enabled]": "true", "automatic_payment_methods[allow_redirects]": "never"},
            **metadata,
        )  # fmt: skip
        names.append(str(intent["id"]))
    part = str(chance.randrange(1, 400))
    await _stripe(http, url, "/refunds", payment_intent=names[0], amount=part)
    await _stripe(http, url, "/refunds", payment_intent=names[0], amount="333")
    await _stripe(http, url, "/refunds", payment_intent=names[1])
    response = await http.post(f"{url}/_sim/charges/{names[2]}/dispute", json={})
    response.raise_for_status()


async def _histories(flow, tenants: Sequence[Tenant], seed: int) -> None:
    """The same history for the same seed, whoever the tenants are."""
    places = asyncio.Semaphore(8)

    async def one(number: int, tenant: Tenant) -> None:
        async with places:
            await _history(flow.http, flow.addresses.stripe, tenant, random.Random(seed + number))

    await asyncio.gather(*(one(number, tenant) for number, tenant in enumerate(tenants)))


async def _balances(tenants: Sequence[Tenant]) -> list[int]:
    return list(await asyncio.gather(*(tenant.available() for tenant in tenants)))


async def test_a_thousand_webhooks_shuffled_and_sent_twice_leave_the_balances_of_once_in_order(flow) -> None:
    in_order = [flow.tenant("in-order") for _ in range(TENANTS)]
    await _histories(flow, in_order, seed=1)
    assert await flow.simulator.settle_webhooks()
    assert (await flow.verdict()).wrong == []
    expected = await _balances(in_order)
    assert len(set(expected)) > 1

    stormy = [flow.tenant("stormy") for _ in range(TENANTS)]
    await flow.simulator.hold_webhooks()
    await _histories(flow, stormy, seed=1)
    second = [
        await asyncio.to_thread(flow.stack.add_replica, door)
        for door in (LEDGER_WORKER, PAYMENTS_WORKER, RECHARGE_WORKER)
    ]
    sent = await flow.simulator.release_webhooks(copies=COPIES, seed=3)
    assert sent >= COPIES * WEBHOOKS_MIN
    third = await asyncio.to_thread(flow.stack.add_replica, LEDGER_WORKER)  # a rebalance in the middle,
    await asyncio.to_thread(third.kill)  # and another
    assert await flow.simulator.settle_webhooks(timeout_s=100)
    verdict = await flow.verdict(timeout_s=60)
    for replica in second:
        await asyncio.to_thread(replica.stop)

    assert verdict.wrong == []
    assert await _balances(stormy) == expected
    await asyncio.to_thread(flow.stack.run, "ledger", "check")
