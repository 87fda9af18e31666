"""kill -9 at random moments, of each worker, Kafka and PostgreSQL, while purchases arrive and cards are recharged."""

import asyncio
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from demo.clients import Tenant
from demo.steps import until
from demo.traffic import purchase
from demo.workload import PACKAGE, PACKAGE_CREDITS, PACKAGE_MINOR, DebitLoop, enable_auto_recharge
from embedded.stack import LEDGER_WORKER, PAYMENTS_WORKER, RECHARGE_WORKER
from shared.clock import utc_now

IS_FULL = os.environ.get("PREPAID_SOAK") == "full"
KILLS_OF_EACH = 20 if IS_FULL else 2
PURCHASES = 200 if IS_FULL else 40
PAUSE_BEFORE_ORDERS_S = (0.1, 1.5)
ORDERED_BEFORE_KILL_S = (0.0, 0.3)
SPENDING_PAUSE_S = 0.2
#: Never reached, so that cards are recharged to the end.
CAP_MINOR = 10_000 * PACKAGE_MINOR
SEED = 20260901


@dataclass(slots=True)
class Customers:
    """Starts purchases, and notes when. Times are seconds since the epoch."""

    buyers: Sequence[Tenant]
    begun: list[float] = field(default_factory=list[float])
    orders: list[asyncio.Task[str]] = field(default_factory=list[asyncio.Task[str]])

    def order(self, count: int) -> list[asyncio.Task[str]]:
        """Starts `count` purchases concurrently."""
        for _ in range(count):
            buyer = self.buyers[len(self.orders) % len(self.buyers)]
            self.begun.append(utc_now().timestamp())
            self.orders.append(asyncio.create_task(purchase(buyer, PACKAGE)))
        return self.orders[-count:]


async def _credited_at(flow) -> dict[str, float]:
    """When the credits of each PaymentIntent were granted."""
    sql = "SELECT payment_intent, extract(epoch FROM created_at) FROM transfer WHERE kind = 'purchase'"
    rows = await asyncio.to_thread(flow.stack.postgres_server.execute, sql, "ledger")
    return {name: float(at) for name, at in (row.split("|") for row in rows.splitlines())}


@pytest.mark.soak
@pytest.mark.timeout(3600 if IS_FULL else 300)
async def test_purchases_survive_random_kills_of_every_part(flow) -> None:
    rng = random.Random(SEED)
    workers = [flow.stack.processes[worker.name] for worker in (LEDGER_WORKER, PAYMENTS_WORKER, RECHARGE_WORKER)]
    victims = [*workers, flow.stack.kafka, flow.stack.postgres] * KILLS_OF_EACH
    rng.shuffle(victims)
    customers = Customers([flow.tenant("buyer") for _ in range(10)])
    spenders = [flow.tenant("spender") for _ in range(3)]
    await asyncio.gather(*(enable_auto_recharge(tenant, CAP_MINOR) for tenant in spenders))
    debit_loop = DebitLoop(flow.product, spenders, pause_s=SPENDING_PAUSE_S)
    spending = asyncio.create_task(debit_loop.run())

    killed_at: list[float] = []
    for victim in victims:
        await asyncio.sleep(rng.uniform(*PAUSE_BEFORE_ORDERS_S))
        orders = customers.order(PURCHASES // len(victims))
        await asyncio.wait(orders, timeout=rng.uniform(*ORDERED_BEFORE_KILL_S), return_when=asyncio.FIRST_COMPLETED)
        killed_at.append(utc_now().timestamp())
        await asyncio.to_thread(victim.kill)
        await asyncio.to_thread(victim.launch if victim in workers else victim.start)

    bought = await asyncio.gather(*customers.orders)

    async def each_was_recharged() -> bool:
        return all([await tenant.attempts() for tenant in spenders])

    await until(each_was_recharged, "a recharge of each spender", timeout_s=90)
    debit_loop.stop()
    await spending
    await asyncio.gather(*(asyncio.to_thread(worker.wait_until_ready) for worker in workers))
    report = await flow.check_invariants(timeout_s=120)

    assert len(set(bought)) == PURCHASES
    assert report.violations == []
    assert report.all_hold
    balances = await asyncio.gather(*(tenant.available() for tenant in customers.buyers))
    assert balances == [PURCHASES // len(customers.buyers) * PACKAGE_CREDITS] * len(customers.buyers)
    credited_at = await _credited_at(flow)
    spans = [(begun, credited_at[name]) for begun, name in zip(customers.begun, bought, strict=True)]
    unfinished = [sum(begun <= at < credited for begun, credited in spans) for at in killed_at]
    assert len(unfinished) == 5 * KILLS_OF_EACH
    assert min(unfinished) > 0, f"each kill interrupted something: {unfinished}"
    await flow.check_ledger()
