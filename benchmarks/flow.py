"""How long the whole flow takes, one event at a time, with every service in a process of its own.

flow.event_to_balance: from sending a signed webhook to the balance that contains it arriving on Kafka.
flow.debit_to_charge_asked: from sending the debit that takes a balance below its threshold to Stripe being asked for
the charge of the saved card.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Sequence

import httpx

from benchmarks.measurement import Measurement, RunOptions
from demo.__main__ import addresses_of
from demo.clients import Product, Tenant
from demo.simulator import Simulator
from demo.steps import until
from demo.workload import PACKAGE_CREDITS, PACKAGE_MINOR, enable_auto_recharge
from embedded.environment import DEVELOPMENT_SIGNING_KEY, SIMULATOR_WEBHOOK_SECRET
from embedded.stack import Stack, StackConfig
from load.sales import orders, sell
from load.webhooks import PATH, signature
from shared.events import BalanceChanged, decode
from shared.ids import new_id
from shared.kafka import make_consumer
from shared.topics import TopicName

ROUNDS = 500
ROUNDS_QUICK = 20
WARM_UP_ROUNDS = 10
#: Targets on an idle machine, reported beside the figures.
AIM_P50_MS = {"flow.event_to_balance": 10, "flow.debit_to_charge_asked": 25}
TIMEOUT_S = 30.0


def run(options: RunOptions) -> Sequence[Measurement]:
    """Starts the product and measures both paths."""
    rounds = ROUNDS_QUICK if options.quick else ROUNDS
    with Stack(StackConfig(label="bench-flow"), say=options.say) as stack:
        samples = asyncio.run(_measure(stack, rounds, options))
    return [
        Measurement(
            f"{name}.{percentile}",
            value,
            "ms",
            settings={"rounds": rounds, "aim_p50_ms": AIM_P50_MS[name], "cpus": os.cpu_count()},
        )
        for name, values_ms in samples.items()
        for percentile, value in (
            ("p50", statistics.median(values_ms)),
            ("p99", statistics.quantiles(values_ms, n=100)[98]),
        )
    ]


async def _measure(stack: Stack, rounds: int, options: RunOptions) -> dict[str, list[float]]:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as http:
        events = await _event_to_balance(stack, http, rounds)
        options.say(f"event to balance: {rounds} rounds, p50 {statistics.median(events):.1f} ms")
        debits = await _debit_to_charge_asked(stack, http, rounds)
        options.say(f"debit to charge asked: {rounds} rounds, p50 {statistics.median(debits):.1f} ms")
    return {"flow.event_to_balance": events, "flow.debit_to_charge_asked": debits}


async def _event_to_balance(stack: Stack, http: httpx.AsyncClient, rounds: int) -> list[float]:
    tenant = new_id("bench")
    url = addresses_of(stack).gateway + PATH
    wanted = orders(WARM_UP_ROUNDS + rounds, [tenant])
    sales = await asyncio.to_thread(sell, addresses_of(stack).stripe, wanted, DEVELOPMENT_SIGNING_KEY)
    consumer = make_consumer(stack.kafka_server.bootstrap_servers, "bench", new_id("bench"))
    consumer.subscribe([TopicName.BALANCE_CHANGED.value])
    await consumer.start()
    await consumer.seek_to_end()
    took_ms: list[float] = []
    try:
        for number in range(WARM_UP_ROUNDS + rounds):
            body = sales[number].body
            headers = {"Stripe-Signature": signature(body, SIMULATOR_WEBHOOK_SECRET)}
            begun = time.perf_counter()
            posting = asyncio.create_task(http.post(url, content=body, headers=headers))
            async with asyncio.timeout(TIMEOUT_S):
                async for record in consumer:
                    balance = decode(record.value, BalanceChanged)
                    if balance is not None and balance.tenant == tenant and balance.version > number:
                        break
            took_ms.append((time.perf_counter() - begun) * 1000)
            (await posting).raise_for_status()
    finally:
        await consumer.stop()
    return took_ms[WARM_UP_ROUNDS:]


async def _debit_to_charge_asked(stack: Stack, http: httpx.AsyncClient, rounds: int) -> list[float]:
    addresses = addresses_of(stack)
    simulator = Simulator(addresses.stripe, http)
    product = Product(addresses, http)
    tenant = Tenant(addresses, http, new_id("bench"))
    await enable_auto_recharge(tenant, monthly_cap_minor=(WARM_UP_ROUNDS + rounds + 1) * PACKAGE_MINOR)
    await until(lambda: _is_recharged(tenant, 0), "the first purchase", TIMEOUT_S)
    took_ms: list[float] = []
    for number in range(WARM_UP_ROUNDS + rounds):
        await http.delete(f"{addresses.stripe}/_sim/requests")
        sent_at = time.time()
        await product.debit(tenant.name, await tenant.available() - 400)
        await until(lambda number=number: _is_recharged(tenant, number + 1), "the recharge", TIMEOUT_S)
        asked = [
            entry["received_at"]
            for entry in await simulator.requests()
            if entry["method"] == "POST" and entry["path"] == "/v1/payment_intents"
        ]
        took_ms.append((asked[0] - sent_at) * 1000)
    return took_ms[WARM_UP_ROUNDS:]


async def _is_recharged(tenant: Tenant, recharges: int) -> bool:
    """Whether the tenant has the credits, and the newest of its recharges is credited."""
    if await tenant.available() < PACKAGE_CREDITS:
        return False
    if recharges == 0:
        return True
    attempts = await tenant.attempts()
    return bool(attempts) and attempts[0]["state"] == "credited"
