"""The worker as a process: from Kafka to a charge, also when it is killed in between."""

import asyncio
from statistics import median

import pytest
from recharge_environment import CATALOG
from recharge_process import Workers, eventually

from shared.events import BalanceChanged


async def _all_known(workers: Workers, *tenants: str) -> None:
    environment = workers.environment
    await workers.publish(*CATALOG, *(environment.profiles[tenant] for tenant in tenants))
    await workers.publish(*(environment.balances[tenant] for tenant in tenants))


async def test_a_balance_on_kafka_becomes_one_charge_and_an_entry_ends_it(workers: Workers) -> None:
    environment = workers.environment
    tenants = [await environment.make_tenant("pm_card_visa", available=100) for _ in range(20)]
    worker = await workers.start()
    await _all_known(workers, *tenants)
    for tenant in tenants:

        async def decided(tenant: str = tenant) -> bool:
            return await environment.last_reason(tenant) == "above_threshold"

        await eventually(decided, "the first decision")
    delays_s: list[float] = []
    for tenant in tenants:
        low = environment.balances[tenant].model_copy(update={"version": 2, "available": 49})
        begun_s = asyncio.get_running_loop().time()
        await workers.publish(low)

        async def charged(tenant: str = tenant) -> bool:
            return bool(environment.charges(tenant))

        await eventually(charged, "a charge")
        delays_s.append(asyncio.get_running_loop().time() - begun_s)
        environment.balances[tenant] = low
        await workers.publish(environment.entry(tenant))
        await workers.state_is(tenant, "credited")
    print(f"published to charged: p50 {median(delays_s) * 1000:.1f} ms, most {max(delays_s) * 1000:.1f} ms")
    assert [len(environment.charges(tenant)) for tenant in tenants] == [1] * len(tenants)
    assert await asyncio.to_thread(worker.stop) == 0


@pytest.mark.parametrize("point", ["recharge.try_committed", "recharge.stripe_answered", "recharge.committed"])
async def test_a_worker_killed_around_the_charge_makes_one_charge(
    workers: Workers, point: str, log_dir: object
) -> None:
    environment = workers.environment
    tenant = await environment.make_tenant("pm_card_visa", available=10)
    first = await workers.start(FAULT_POINTS=f"{point}=kill@1", ready=False)
    await _all_known(workers, tenant)
    await asyncio.to_thread(first.process.wait, 25)
    await workers.start()
    # The killed worker's lease runs out by time: end it now.
    await environment.update_rows("UPDATE attempt SET next_at = now() WHERE state = 'charging'")
    await workers.state_is(tenant, "charged")
    await workers.publish(environment.entry(tenant))
    await workers.publish(
        BalanceChanged.model_validate(
            environment.balances[tenant].model_dump()
            | {"version": environment.balances[tenant].version + 1, "available": 1_010}
        )
    )
    await workers.state_is(tenant, "credited")
    assert len(environment.charges(tenant)) == 1
    assert len(await environment.payment_intents(tenant)) == 1
