"""A credit and its refund handled by two ledger workers at the same time.

Neither sees the other's uncommitted transaction; the second to commit must still take the first into account.
"""

import asyncio
import secrets
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from embedded.consumer_groups import ConsumerGroups, consumer_groups
from embedded.environment import DEVELOPMENT_SIGNING_KEY, SIMULATOR_SECRET_KEY
from embedded.http_process import HttpProcess
from embedded.ledger_environment import ledger_environment
from embedded.process import this_python
from embedded.servers import PostgresServer
from embedded.side_by_side import side_by_side
from embedded.testing import ServiceDatabase
from load.sales import sell
from load.waiting import until
from load.webhooks import body_of
from shared.ids import new_id
from shared.kafka import make_producer
from shared.signed_metadata import CreditOrder
from shared.topic_admin import create_topics
from shared.topics import TopicName

ORDER = CreditOrder("acme", 100, 1_000, "usd", purchase=new_id("pur"))
CREDIT, REFUND = "payment_intent.succeeded", "refund.created"


def bought_and_refunded(stripe_url: str) -> dict[str, bytes]:
    """Stripe's events of a purchase and its refund: the bodies by type."""
    [sale] = sell(stripe_url, [ORDER], DEVELOPMENT_SIGNING_KEY)
    headers = {"Authorization": f"Bearer {SIMULATOR_SECRET_KEY}"}
    with httpx.Client(base_url=f"{stripe_url}/v1", headers=headers, timeout=30) as stripe:
        stripe.post("/refunds", data={"payment_intent": sale.payment_intent}).raise_for_status()
        listed = stripe.get("/events", params={"type": REFUND}).raise_for_status().json()["data"]
    return {CREDIT: sale.body, REFUND: body_of(listed[0])}


@dataclass(frozen=True, slots=True)
class TwoWorkers:
    """Two processes of the ledger's worker; each waits before its first commit until `release`."""

    group: str
    groups: ConsumerGroups
    producer: Any
    postgres: PostgresServer
    database: ServiceDatabase
    hits: Path
    released: Path
    bodies: dict[str, bytes]
    environment: dict[str, str]

    async def partition_of_each(self) -> tuple[int, int]:
        """One partition of each worker."""

        async def both_have_some() -> bool:
            if not await self.groups.is_stable(self.group):
                return False
            given = await self.groups.partitions_of_members(self.group)
            return len(given) == 2 and all(given)

        await until(both_have_some)
        one, other = await self.groups.partitions_of_members(self.group)
        return min(one), min(other)

    async def send(self, event_type: str, partition: int) -> None:
        """Puts the event into a partition, whatever its key says."""
        await self.producer.send_and_wait(self.groups.topic, self.bodies[event_type], partition=partition)

    async def check_ledger(self) -> None:
        """`ledger check` and `ledger reconcile` find no difference."""
        for command in (["check"], ["reconcile", "--since", "1d", "--grace", "0s"]):
            done = await asyncio.to_thread(
                subprocess.run, this_python("-m", "ledger", *command), env=self.environment, capture_output=True,
                text=True, timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr

    def held(self) -> int:
        """How many workers have handled their event and wait before the commit."""
        return len(self.hits.read_text().split()) if self.hits.exists() else 0

    def release(self) -> None:
        self.released.touch()

    async def query(self, sql: str) -> str:
        return await asyncio.to_thread(self.postgres.execute, sql, self.database.name)

    async def waits_for_a_lock(self) -> bool:
        return (
            await self.query(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            == "1"
        )


@pytest.fixture
async def workers(
    database_of, postgres_server, kafka_server, simulator, log_dir: Path, tmp_path: Path
) -> AsyncIterator[TwoWorkers]:
    stripe = await asyncio.to_thread(simulator)
    prefix = f"two-ledgers-{secrets.token_hex(4)}."
    await create_topics(kafka_server.bootstrap_servers, prefix)
    database = database_of("ledger")
    hits, released = tmp_path / "hits", tmp_path / "released"
    plain = ledger_environment(database, kafka_server.bootstrap_servers, prefix, stripe.url)
    environment = {
        **plain,
        "FAULT_POINTS": "ledger.handled=hold@1",
        "FAULT_POINTS_LOG": str(hits),
        "FAULT_POINTS_RELEASE": str(released),
    }
    both = [
        HttpProcess(name, ["ledger", "worker"], log_file=log_dir / f"{name}.log", cwd=tmp_path, env=environment)
        for name in ("ledger-worker-one", "ledger-worker-other")
    ]
    producer = make_producer(kafka_server.bootstrap_servers, "two-ledgers")
    await producer.start()
    try:
        await asyncio.to_thread(side_by_side, [process.start for process in both])
        async with consumer_groups(kafka_server, prefix + TopicName.STRIPE_EVENTS) as groups:
            bodies = await asyncio.to_thread(bought_and_refunded, stripe.url)
            yield TwoWorkers(
                f"{prefix}ledger", groups, producer, postgres_server, database, hits, released, bodies,
                plain | {"HTTP_PORT": "1"},
            )  # fmt: skip
    finally:
        released.touch()
        await producer.stop()
        await asyncio.to_thread(side_by_side, [process.close for process in both])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(CREDIT, REFUND, id="credit_first"),
        pytest.param(REFUND, CREDIT, id="refund_first"),
    ],
)
async def test_a_credit_and_its_refund_in_two_workers_before_either_commits_leave_no_reversal_waiting(
    workers: TwoWorkers, first: str, second: str
) -> None:
    one, other = await workers.partition_of_each()
    await workers.send(first, one)
    await until(lambda: workers.held() == 1)
    await workers.send(second, other)

    async def second_is_at_it() -> bool:
        return await workers.waits_for_a_lock() or workers.held() == 2

    await until(second_is_at_it)
    assert await workers.query("SELECT count(*) FROM transfer") == "0", "neither has committed"
    workers.release()

    async def both_are_done() -> bool:
        return await workers.groups.lag(workers.group) == 0

    await until(both_are_done)
    assert workers.held() == 2, "each worker has handled one of them"
    assert await workers.query("SELECT count(*) FROM payment_intent WHERE tenant_id IS NULL") == "0", (
        "no reversal waits"
    )
    assert await workers.query("SELECT kind, credits FROM transfer ORDER BY version") == "purchase|100\nrefund|100"
    assert await workers.query("SELECT balance, owed, receivable FROM balance WHERE tenant_id = 'acme'") == "0|0|0"
    await workers.check_ledger()
