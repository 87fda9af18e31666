"""The outbox on real PostgreSQL and Kafka: all committed events are published, and the newest state last."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from embedded.servers import KafkaServer
from load.waiting import until
from shared.events import BalanceChanged, DomainEvent, EntryPosted, decode
from shared.kafka import Record
from shared.outbox import Outbox, OutboxEvent, StateMark
from shared.outbox_publisher import OutboxPublisher, StateSource
from shared.topics import TopicName

AT = datetime(2026, 9, 1, tzinfo=UTC)
TENANT = "acme"


def entry(reference: str) -> EntryPosted:
    return EntryPosted(
        tenant=TENANT, reference=reference, door="stripe", kind="purchase", credits=1, balance_version=1, posted_at=AT
    )


async def load_balances(connection: AsyncConnection, keys: Sequence[str]) -> Mapping[str, tuple[int, DomainEvent]]:
    rows = await connection.execute(text("SELECT key, version FROM balance WHERE key = ANY(:keys)"), {"keys": keys})
    return {
        row.key: (
            row.version,
            BalanceChanged(
                tenant=row.key, version=row.version, available=row.version, held=0, owed=0, receivable=0, changed_at=AT
            ),
        )
        for row in rows
    }


class CrashedProcess:
    """The publisher of a process that crashes right after its commit: it publishes nothing."""

    def submit(self, events: list[OutboxEvent], marks: list[StateMark]) -> None:
        return


Step = Callable[[], Awaitable[None]]


async def no_delay() -> None:
    """Returns at once."""


class SlowProducer:
    """The real producer. It awaits `before` before it sends, and `after` before it reports the acknowledgement."""

    def __init__(self, producer: AIOKafkaProducer, before: Step, after: Step) -> None:
        self._producer = producer
        self._before = before
        self._after = after

    async def send(self, *arguments: Any, **options: Any) -> Awaitable[object]:
        await self._before()
        acknowledgement = await self._producer.send(*arguments, **options)

        async def acknowledged() -> object:
            answer = await acknowledgement
            await self._after()
            return answer

        return asyncio.ensure_future(acknowledged())


class QueueingProducer:
    """Like aiokafka while Kafka is unavailable: it accepts a record at once and sends it after `may_deliver` is set."""

    def __init__(self, producer: AIOKafkaProducer, may_deliver: asyncio.Event) -> None:
        self._producer = producer
        self._may_deliver = may_deliver
        self.queued = 0

    async def send(self, *arguments: Any, **options: Any) -> Awaitable[object]:
        self.queued += 1

        async def delivered() -> object:
            await self._may_deliver.wait()
            return await (await self._producer.send(*arguments, **options))

        return asyncio.ensure_future(delivered())


class Environment:
    """A database and a Kafka producer, from which a test creates its publishers."""

    def __init__(self, kafka: KafkaServer, prefix: str, engine: AsyncEngine, producer: AIOKafkaProducer) -> None:
        self._kafka = kafka
        self._prefix = prefix
        self.engine = engine
        self.producer = producer

    def publisher(self, before_send: Step = no_delay, before_check: Step = no_delay) -> OutboxPublisher:
        return self.publisher_with(SlowProducer(self.producer, before_send, before_check))

    def publisher_with(self, producer: Any, send_timeout_s: float = 15) -> OutboxPublisher:
        return OutboxPublisher(
            self.engine,
            producer,
            service="ledger",
            topic_prefix=self._prefix,
            states=[StateSource(TopicName.BALANCE_CHANGED, load_balances)],
            send_timeout_s=send_timeout_s,
        )

    async def set_balance(self, version: int, publisher: Any) -> None:
        """Commits a version of the tenant's balance with its mark."""
        async with Outbox(publisher).transaction(self.engine) as transaction:
            await transaction.connection.execute(
                text(
                    "INSERT INTO balance VALUES (:key, :version)"
                    " ON CONFLICT (key) DO UPDATE SET version = excluded.version"
                ),
                {"key": TENANT, "version": version},
            )
            transaction.mark(TopicName.BALANCE_CHANGED, TENANT, version, tenant=TENANT)

    async def count(self, table: str) -> int:
        async with self.engine.connect() as connection:
            return (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()

    async def claims(self) -> list[datetime]:
        async with self.engine.connect() as connection:
            return list((await connection.execute(text("SELECT due_at FROM outbox_mark ORDER BY version"))).scalars())

    async def end_grace_period(self) -> None:
        """Makes all rows due, as if the grace period of the process that committed them were over."""
        async with self.engine.begin() as connection:
            for table in ("outbox", "outbox_mark"):
                await connection.execute(text(f"UPDATE {table} SET due_at = now() - interval '1 second'"))

    async def records(self, topic: TopicName) -> list[Record]:
        """All records of the topic, in the order of each partition."""
        consumer = AIOKafkaConsumer(
            self._prefix + topic, bootstrap_servers=self._kafka.bootstrap_servers, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            found: list[Record] = []
            for partition, end in (await consumer.end_offsets(list(consumer.assignment()))).items():
                while await consumer.position(partition) < end:
                    for raws in (await consumer.getmany(partition, timeout_ms=1_000)).values():
                        found.extend(Record.of(raw) for raw in raws)
            return found
        finally:
            await consumer.stop()

    async def sent_versions(self) -> list[int]:
        events = [decode(record.value, BalanceChanged) for record in await self.records(TopicName.BALANCE_CHANGED)]
        return [event.version for event in events if event is not None]


@pytest.fixture
def environment(
    kafka_server: KafkaServer, topic_prefix: str, engine: AsyncEngine, producer: AIOKafkaProducer
) -> Environment:
    return Environment(kafka_server, topic_prefix, engine, producer)


class Gate:
    """A step at which a publisher waits until the test lets it continue."""

    def __init__(self) -> None:
        self.is_reached = asyncio.Event()
        self.may_pass = asyncio.Event()

    async def __call__(self) -> None:
        self.is_reached.set()
        await self.may_pass.wait()


async def stopped(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_an_event_is_published_after_the_commit_and_its_row_is_deleted(environment: Environment) -> None:
    publisher = environment.publisher()
    running = asyncio.create_task(publisher.run())
    async with Outbox(publisher).transaction(environment.engine) as transaction:
        for reference in ("pi_1", "pi_2", "pi_3"):
            transaction.publish(entry(reference), traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
        assert await environment.records(TopicName.ENTRY_POSTED) == []

    async def is_empty() -> bool:
        return await environment.count("outbox") == 0

    await until(is_empty)
    await publisher.drain(5)
    await stopped(running)
    records = await environment.records(TopicName.ENTRY_POSTED)
    events = [decode(record.value, EntryPosted) for record in records]
    assert [event.reference for event in events if event] == ["pi_1", "pi_2", "pi_3"]
    assert {record.key for record in records} == {TENANT}
    assert {record.headers["traceparent"][:7] for record in records} == {"00-aaaa"}


async def test_a_failed_transaction_publishes_nothing(environment: Environment) -> None:
    class Failed(Exception):
        pass

    publisher = environment.publisher()
    with pytest.raises(Failed):
        async with Outbox(publisher).transaction(environment.engine) as transaction:
            transaction.publish(entry("pi_1"))
            raise Failed
    await environment.end_grace_period()
    await publisher.sweep()
    assert await environment.records(TopicName.ENTRY_POSTED) == []


async def test_rows_of_a_crashed_process_are_published_by_a_sweep_after_their_grace_period(
    environment: Environment,
) -> None:
    async with Outbox(CrashedProcess()).transaction(environment.engine) as transaction:
        transaction.publish(entry("pi_1"))
    await environment.set_balance(1, CrashedProcess())
    other = environment.publisher()
    await other.sweep()
    assert await environment.records(TopicName.ENTRY_POSTED) == [], (
        "the process that committed still has its grace period"
    )
    await other.measure()
    assert REGISTRY.get_sample_value("outbox_waiting_rows") == 2
    await environment.end_grace_period()
    await other.sweep()
    assert len(await environment.records(TopicName.ENTRY_POSTED)) == 1
    assert await environment.sent_versions() == [1]
    assert [await environment.count("outbox"), await environment.count("outbox_mark")] == [0, 0]
    await other.measure()
    assert REGISTRY.get_sample_value("outbox_waiting_rows") == 0
    await other.sweep()
    assert len(await environment.records(TopicName.ENTRY_POSTED)) == 1


async def test_several_marks_of_a_key_become_one_record_of_the_newest_state(environment: Environment) -> None:
    for version in (1, 2, 3):
        await environment.set_balance(version, CrashedProcess())
    await environment.end_grace_period()
    await environment.publisher().sweep()
    assert await environment.sent_versions() == [3]
    assert await environment.count("outbox_mark") == 0


async def test_a_publisher_overtaken_before_its_send_sends_the_newest_state_last(environment: Environment) -> None:
    gate = Gate()
    slow, fast = environment.publisher(gate), environment.publisher()
    running = [asyncio.create_task(slow.run()), asyncio.create_task(fast.run())]
    await environment.set_balance(1, slow)
    async with asyncio.timeout(10):
        await gate.is_reached.wait()  # the slow publisher has read and announced version 1
    await environment.set_balance(2, fast)
    await fast.drain(10)
    assert await environment.sent_versions() == [2]
    gate.may_pass.set()
    await slow.drain(10)
    assert await environment.sent_versions() == [2, 1, 2]
    await environment.end_grace_period()
    await fast.sweep()
    assert (await environment.sent_versions())[-1] == 2
    assert await environment.count("outbox_mark") == 0
    await stopped(*running)


@pytest.mark.parametrize("starts_as", ["the process that committed", "a sweep"])
async def test_a_publisher_that_crashes_after_an_overtaken_send_leaves_a_mark_for_the_sweep(
    environment: Environment, starts_as: str
) -> None:
    before_send, before_check = Gate(), Gate()
    slow, fast = environment.publisher(before_send, before_check), environment.publisher()
    if starts_as == "a sweep":
        await environment.set_balance(1, CrashedProcess())
        await environment.end_grace_period()
        crashing = asyncio.create_task(slow.sweep())
    else:
        crashing = asyncio.create_task(slow.run())
        await environment.set_balance(1, slow)
    running = asyncio.create_task(fast.run())
    async with asyncio.timeout(10):
        await before_send.is_reached.wait()
    await environment.set_balance(2, fast)
    await fast.drain(10)
    before_send.may_pass.set()
    async with asyncio.timeout(10):
        await before_check.is_reached.wait()
    await stopped(crashing, running)
    assert await environment.sent_versions() == [2, 1], "compaction would keep version 1"
    await environment.end_grace_period()
    await fast.sweep()
    assert await environment.sent_versions() == [2, 1, 2]
    assert await environment.count("outbox_mark") == 0


async def test_a_record_written_after_its_send_timed_out_is_followed_by_the_newest_state(
    environment: Environment,
) -> None:
    may_deliver = asyncio.Event()
    waiting = environment.publisher_with(QueueingProducer(environment.producer, may_deliver), send_timeout_s=0.1)
    other = environment.publisher()
    running = [asyncio.create_task(each.run()) for each in (waiting, other)]
    await environment.set_balance(1, CrashedProcess())
    await environment.end_grace_period()
    with pytest.raises(TimeoutError):
        await waiting.sweep()
    await environment.set_balance(2, other)
    await (
        environment.end_grace_period()
    )  # ends the claim of the first publisher too, as if its process had been suspended
    await other.drain(10)
    await other.sweep()
    assert await environment.sent_versions() == [2]
    assert await environment.count("outbox_mark") == 0
    may_deliver.set()
    await waiting.drain(20)
    assert await environment.sent_versions() == [2, 1, 2]
    assert await environment.count("outbox_mark") == 0
    await stopped(*running)


async def test_the_claim_of_an_unacknowledged_record_is_renewed(environment: Environment) -> None:
    may_deliver = asyncio.Event()
    waiting = environment.publisher_with(QueueingProducer(environment.producer, may_deliver), send_timeout_s=0.1)
    running = asyncio.create_task(waiting.run())
    await environment.set_balance(1, CrashedProcess())
    await environment.end_grace_period()
    with pytest.raises(TimeoutError):
        await waiting.sweep()
    [claimed] = await environment.claims()

    async def is_renewed() -> bool:
        return (await environment.claims())[0] > claimed

    await until(is_renewed)
    await environment.publisher().sweep()
    assert await environment.sent_versions() == [], "another publisher may publish the key, but not claim its mark"
    may_deliver.set()
    await waiting.drain(20)
    assert await environment.sent_versions() == [1, 1]
    assert await environment.count("outbox_mark") == 0
    await stopped(running)


async def test_a_publisher_that_crashes_after_it_detected_a_newer_version_leaves_a_mark(
    environment: Environment,
) -> None:
    sends = [Gate(), Gate()]
    passed = iter(sends)

    async def at_each_send() -> None:
        await next(passed)()

    before_check = Gate()
    slow, fast = environment.publisher(before_send=at_each_send), environment.publisher(before_check=before_check)
    crashing, running = asyncio.create_task(slow.run()), asyncio.create_task(fast.run())
    await environment.set_balance(1, slow)
    async with asyncio.timeout(10):
        await sends[0].is_reached.wait()
        await environment.set_balance(2, fast)
        await before_check.is_reached.wait()
        sends[0].may_pass.set()
        await sends[1].is_reached.wait()  # the slow publisher has seen version 2 and is about to send it
    await stopped(crashing)
    before_check.may_pass.set()
    await fast.drain(10)
    assert await environment.sent_versions() == [2, 1], "compaction would keep version 1"
    await stopped(running)
    await environment.end_grace_period()
    await environment.publisher().sweep()
    assert await environment.sent_versions() == [2, 1, 2]
    assert await environment.count("outbox_mark") == 0


async def test_the_last_record_of_a_key_is_its_newest_version_when_publishers_race(environment: Environment) -> None:
    publishers = [environment.publisher() for _ in range(3)]
    running = [asyncio.create_task(publisher.run()) for publisher in publishers]
    for version in range(1, 61):
        await environment.set_balance(version, publishers[version % 3])
        if version % 20 == 0:
            await environment.end_grace_period()
            await asyncio.gather(*(publisher.sweep() for publisher in publishers))
    for publisher in publishers:
        await publisher.drain(10)
    await environment.end_grace_period()
    await publishers[0].sweep()
    assert (await environment.sent_versions())[-1] == 60
    assert await environment.count("outbox_mark") == 0
    await stopped(*running)
