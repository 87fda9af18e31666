"""The product handles the load generator's webhooks, and the ledger agrees with Stripe afterwards."""

import asyncio
import json
import subprocess
from collections import Counter

import pytest

from demo.steps import until
from embedded.consumer_groups import consumer_groups
from embedded.environment import DEVELOPMENT_SIGNING_KEY, SIMULATOR_WEBHOOK_SECRET
from embedded.process import this_python
from embedded.stack import GATEWAY_APP, LEDGER_WORKER
from load.webhooks import PATH
from shared.topics import TopicName

BODIES, ROUNDS = 200, 3
CONNECTIONS = 16
SECONDS_MAX = 60
LOAD_TIMEOUT_S = 100.0


async def _load(flow, *arguments: str) -> int:
    """How many webhooks were acknowledged."""
    url = f"{flow.stack.url(GATEWAY_APP)}{PATH}"
    done = await asyncio.to_thread(
        subprocess.run,
        this_python(
            "-m", "load.http_load", url, "--secret", SIMULATOR_WEBHOOK_SECRET, "--connections", str(CONNECTIONS),
            "--warmup-s", "0", "--seconds", str(SECONDS_MAX), "--rounds", str(ROUNDS), "--bodies", str(BODIES),
            *arguments,
        ),
        capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["requests"]


async def _handled(flow) -> None:
    async with consumer_groups(flow.stack.kafka_server, TopicName.STRIPE_EVENTS) as groups:

        async def are_read() -> bool:
            return await groups.lag(LEDGER_WORKER.service) == 0

        await until(are_read, "the webhooks read by the ledger", timeout_s=60)


async def _credited(flow) -> Counter[str]:
    rows = await asyncio.to_thread(
        flow.stack.postgres_server.execute,
        "SELECT payment_intent FROM transfer WHERE kind = 'purchase' AND tenant_id LIKE 'load%'",
        "ledger",
    )
    return Counter(rows.split())


@pytest.mark.timeout(240)
async def test_each_sale_is_credited_once_however_often_it_is_sent(flow) -> None:
    arguments = ("--stripe", flow.addresses.stripe, "--signing-key", DEVELOPMENT_SIGNING_KEY)
    assert await _load(flow, *arguments) == BODIES * ROUNDS
    await _handled(flow)
    credited = await _credited(flow)
    assert (len(credited), set(credited.values())) == (BODIES, {1})
    await flow.check_ledger()


@pytest.mark.timeout(240)
async def test_events_of_another_business_are_acknowledged_and_change_nothing(flow) -> None:
    before = await _credited(flow)
    assert await _load(flow) == BODIES * ROUNDS
    await _handled(flow)
    assert await _credited(flow) == before
    await flow.check_ledger()
