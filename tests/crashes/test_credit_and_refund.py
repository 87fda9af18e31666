"""A credit and its refund in two ledger workers at the same moment, neither of which sees what the other has not
committed: whoever comes second has to know of the first."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from embedded.consumer_groups import ConsumerGroups, consumer_groups
from embedded.environment import DEVELOPMENT_SIGNING_KEY
from embedded.http_process import HttpProcess
from embedded.ledger_environment import ledger_environment
from embedded.servers import PostgresServer
from embedded.side_by_side import side_by_side
from embedded.testing import ServiceDatabase
from load.waiting import until
from load.webhooks import body_of, event
from shared.ids import new_id
from shared.kafka import make_producer
from shared.signed_metadata import CreditOrder, sign
from shared.topic_admin import create_topics
from shared.topics import TopicName

PAYMENT_INTENT = "pi_1"
ORDER = CreditOrder("acme", 100, 1_000, "usd", purchase=new_id("pur"))
CREDIT = event(
    "payment_intent.succeeded",
    data={
        "object": {
            "object": "payment_intent", "id": PAYMENT_INTENT, "status": "succeeded", "amount": 1_000,
            "amount_received": 1_000, "currency": "usd", "created": int(time.time()),
            "metadata": sign(ORDER, DEVELOPMENT_SIGNING_KEY),
        }
    },
)  # fmt: skip
REFUND = event(
    "refund.created",
    data={
        "object": {
            "object": "refund", "id": "re_1", "payment_intent": PAYMENT_INTENT, "amount": 1_000, "currency": "usd",
            "status": "succeeded",
        }
    },
)  # fmt: skip


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

    async def partition_of_each(self) -> tuple[int, int]:
        """A partition of the one and a partition of the other."""

        async def both_have_some() -> bool:
            if not await self.groups.is_stable(self.group):
                return False
            given = await self.groups.partitions_of_members(self.group)
            return len(given) == 2 and all(given)

        await until(both_have_some)
        one, other = await self.groups.partitions_of_members(self.group)
        return min(one), min(other)

    async def send(self, sent: dict[str, Any], partition: int) -> None:
        """Puts an event into a partition, whatever its key says."""
        await self.producer.send_and_wait(self.groups.topic, body_of(sent), partition=partition)

    def held(self) -> int:
        """How many have handled their event and wait before the commit."""
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
    database_of, postgres_server, kafka_server, log_dir: Path, tmp_path: Path
) -> AsyncIterator[TwoWorkers]:
    prefix = f"two-ledgers-{secrets.token_hex(4)}."
    await create_topics(kafka_server.bootstrap_servers, prefix)
    database = database_of("ledger")
    hits, released = tmp_path / "hits", tmp_path / "released"
    environment = {
        **ledger_environment(database, kafka_server.bootstrap_servers, prefix),
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
            yield TwoWorkers(f"{prefix}ledger", groups, producer, postgres_server, database, hits, released)
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
async def test_a_credit_and_its_refund_in_two_workers_before_either_commits_leave_nothing_waiting(
    workers: TwoWorkers, first: dict[str, Any], second: dict[str, Any]
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
    assert await workers.query("SELECT count(*) FROM payment_intent WHERE tenant_id IS NULL") == "0", "nothing waits"
    assert await workers.query("SELECT kind, credits FROM transfer ORDER BY version") == "purchase|100\nrefund|100"
    assert await workers.query("SELECT balance, owed, receivable FROM balance WHERE tenant_id = 'acme'") == "0|0|0"
