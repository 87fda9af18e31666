"""Every worker is killed between fetch, handling, commit, publishing and offset commit while purchases arrive."""

import asyncio
from pathlib import Path

import pytest

from demo.clients import Tenant
from demo.traffic import purchase
from demo.workload import PACKAGE, PACKAGE_CREDITS, DebitLoop, enable_auto_recharge
from embedded.stack import LEDGER_WORKER, PAYMENTS_WORKER, RECHARGE_WORKER, ServiceProcess

WORKERS = (LEDGER_WORKER, PAYMENTS_WORKER, RECHARGE_WORKER)
POINTS = ("fetched", "handled", "committed", "published", "offsets_committed")
BUYERS = 20
PURCHASES = 200
BUYING_PAUSE_S = 3.0
SPENDING_PAUSE_S = 0.1
DEATH_TIMEOUT_S = 45.0


async def _killed_at_each_point(flow, worker: ServiceProcess, log: Path) -> None:
    """Restarts the worker with one fault point after the other, and returns once it has died at each. Each restarted
    worker continues where the killed one stopped."""
    process = flow.stack.processes[worker.name]
    plain_env = dict(process.env)
    for point in POINTS:
        name = f"{worker.service}.{point}"
        process.stop()
        process.env = plain_env | {"FAULT_POINTS": f"{name}=kill@2", "FAULT_POINTS_LOG": str(log)}
        process.launch()
        process.env = plain_env
        status = await asyncio.to_thread(process.process.wait, DEATH_TIMEOUT_S)
        assert status == 128 + 9, f"{name}: the worker ended with {status}\n{process.process.log_tail()}"
    process.stop()
    process.launch()


async def _buy(buyer: Tenant, all_have_died: asyncio.Event) -> list[str]:
    """Buys this buyer's share, and continues until every worker has died: an idle worker reaches no fault point."""
    bought: list[str] = []
    while len(bought) < PURCHASES // BUYERS or not all_have_died.is_set():
        bought.append(await purchase(buyer, PACKAGE))
        await asyncio.sleep(BUYING_PAUSE_S)
    return bought


@pytest.mark.timeout(400)
async def test_two_hundred_purchases_survive_a_death_at_every_fault_point_of_every_worker(flow, tmp_path) -> None:
    log = tmp_path / "fault-points"
    buyers = [flow.tenant("buyer") for _ in range(BUYERS)]
    spenders = [flow.tenant("spender") for _ in range(4)]
    await asyncio.gather(*(enable_auto_recharge(tenant) for tenant in spenders))
    debit_loop = DebitLoop(flow.product, spenders, pause_s=SPENDING_PAUSE_S)
    spending = asyncio.create_task(debit_loop.run())
    all_have_died = asyncio.Event()
    buying = asyncio.gather(*(_buy(buyer, all_have_died) for buyer in buyers))

    await asyncio.gather(*(_killed_at_each_point(flow, worker, log) for worker in WORKERS))
    all_have_died.set()

    bought = await buying
    debit_loop.stop()
    await spending
    await asyncio.gather(*(asyncio.to_thread(flow.stack.processes[worker.name].wait_until_ready) for worker in WORKERS))
    report = await flow.check_invariants()

    hit = sorted(log.read_text().split())
    assert hit == sorted(f"{worker.service}.{point}" for worker in WORKERS for point in POINTS)
    payment_intents = [payment_intent for of_buyer in bought for payment_intent in of_buyer]
    assert len(set(payment_intents)) == len(payment_intents) >= PURCHASES
    assert report.violations == []
    assert report.all_hold
    assert debit_loop.debits > 0
    balances = await asyncio.gather(*(tenant.available() for tenant in buyers))
    assert balances == [len(of_buyer) * PACKAGE_CREDITS for of_buyer in bought]
    await flow.check_ledger()
