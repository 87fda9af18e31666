"""kill -9 at random moments, of each worker, Kafka and PostgreSQL, while purchases arrive and cards are recharged."""

import asyncio
import os
import random

import pytest

from demo.market import PACKAGE, Spender, open_account
from demo.traffic import purchases
from embedded.stack import LEDGER_WORKER, PAYMENTS_WORKER, RECHARGE_WORKER

IS_FULL = os.environ.get("PREPAID_SOAK") == "full"
KILLS_OF_EACH = 20 if IS_FULL else 2
PURCHASES = 200 if IS_FULL else 40
SEED = 20260901


@pytest.mark.soak
@pytest.mark.timeout(3600 if IS_FULL else 300)
async def test_purchases_survive_random_kills_of_every_part(flow) -> None:
    chance = random.Random(SEED)
    doors = [flow.stack.doors[door.name] for door in (LEDGER_WORKER, PAYMENTS_WORKER, RECHARGE_WORKER)]
    parts = [*doors, flow.stack.kafka, flow.stack.postgres]
    victims = parts * KILLS_OF_EACH
    chance.shuffle(victims)
    buyers = [flow.tenant("buyer") for _ in range(10)]
    spenders = [flow.tenant("spender") for _ in range(3)]
    await asyncio.gather(*(open_account(tenant) for tenant in spenders))
    market = Spender(flow.product, spenders)
    spending = asyncio.create_task(market.run())
    buying = asyncio.create_task(purchases(buyers, PURCHASES, PACKAGE, pause_s=len(victims) / PURCHASES * 8))

    for victim in victims:
        await asyncio.sleep(chance.uniform(0.1, 1.5))
        await asyncio.to_thread(victim.kill)
        await asyncio.to_thread(victim.launch if victim in doors else victim.start)

    bought = await buying
    market.stop()
    await spending
    await asyncio.gather(*(asyncio.to_thread(door.wait_until_ready) for door in doors))
    verdict = await flow.verdict(timeout_s=120)

    assert len(set(bought)) == PURCHASES
    assert verdict.wrong == []
    assert verdict.is_proven
    balances = await asyncio.gather(*(tenant.available() for tenant in buyers))
    assert balances == [PURCHASES // len(buyers) * 1_000] * len(buyers)
    await asyncio.to_thread(flow.stack.run, "ledger", "check")
