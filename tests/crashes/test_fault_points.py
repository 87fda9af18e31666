"""Every worker is killed between fetch, handling, commit, publishing and offset commit while purchases arrive."""

import asyncio
from pathlib import Path

import pytest

from demo.market import PACKAGE, Spender, open_account
from demo.traffic import purchases
from embedded.stack import LEDGER_WORKER, PAYMENTS_WORKER, RECHARGE_WORKER, Door

WORKERS = (LEDGER_WORKER, PAYMENTS_WORKER, RECHARGE_WORKER)
POINTS = ("fetched", "handled", "committed", "published", "offsets_committed")
PURCHASES = 200
SPENDING_PAUSE_S = 0.1
DEATH_TIMEOUT_S = 45.0


async def _killed_at_each_point(flow, door: Door, log: Path) -> None:
    """Restarts the worker armed with one fault point after the other, and returns once it has died at each. Whoever
    comes next goes on with what the dead one has left."""
    process = flow.stack.doors[door.name]
    calm = dict(process.env)
    for point in POINTS:
        name = f"{door.service}.{point}"
        process.stop()
        process.env = calm | {"FAULT_POINTS": f"{name}=kill@2", "FAULT_POINTS_LOG": str(log)}
        process.launch()
        process.env = calm
        status = await asyncio.to_thread(process.process.wait, DEATH_TIMEOUT_S)
        assert status == 128 + 9, f"{name}: the worker ended with {status}\n{process.process.log_tail()}"
    process.stop()
    process.launch()


@pytest.mark.timeout(400)
async def test_two_hundred_purchases_survive_a_death_at_every_fault_point_of_every_worker(flow, tmp_path) -> None:
    log = tmp_path / "fault-points"
    buyers = [flow.tenant("buyer") for _ in range(20)]
    spenders = [flow.tenant("spender") for _ in range(4)]
    await asyncio.gather(*(open_account(tenant) for tenant in spenders))
    market = Spender(flow.product, spenders, pause_s=SPENDING_PAUSE_S)
    spending = asyncio.create_task(market.run())
    buying = asyncio.create_task(purchases(buyers, PURCHASES, PACKAGE, pause_s=1.0))

    await asyncio.gather(*(_killed_at_each_point(flow, door, log) for door in WORKERS))

    bought = await buying
    market.stop()
    await spending
    await asyncio.gather(*(asyncio.to_thread(flow.stack.doors[door.name].wait_until_ready) for door in WORKERS))
    verdict = await flow.verdict()

    hit = sorted(log.read_text().split())
    assert hit == sorted(f"{door.service}.{point}" for door in WORKERS for point in POINTS)
    assert len(set(bought)) == PURCHASES
    assert verdict.wrong == []
    assert verdict.is_proven
    assert market.debits > 0
    balances = await asyncio.gather(*(tenant.available() for tenant in buyers))
    assert balances == [PURCHASES // len(buyers) * 1_000] * len(buyers)
    await flow.prove_books()
