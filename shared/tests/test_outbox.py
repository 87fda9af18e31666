"""The outbox on real PostgreSQL and Kafka: nothing committed is left unsent, and the newest state is sent last."""

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


class Dead:
    """A process that died right after its commit: it publishes nothing."""

    def submit(self, events: list[OutboxEvent], marks: list[StateMark]) -> None:
        return


Step = Callable[[], Awaitable[None]]


async def at_once() -> None:
    """No waiting."""


class SlowProducer:
    """The real producer, which sends once `before` has passed, and tells of the acknowledgement once `after` has."""

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
    """Like aiokafka while Kafka is away: it takes a record at once and delivers it when it `may_deliver`."""

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


class House:
    """One database, and as many publishers as a test wants."""

    def __init__(self, kafka: KafkaServer, prefix: str, engine: AsyncEngine, producer: AIOKafkaProducer) -> None:
        self._kafka = kafka
        self._prefix = prefix
        self.engine = engine
        self.producer = producer

    def publisher(self, before_send: Step = at_once, before_look: Step = at_once) -> OutboxPublisher:
        return self.publisher_with(SlowProducer(self.producer, before_send, before_look))

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

    async def grace_is_over(self) -> None:
        """As if the process that committed had had its time."""
        async with self.engine.begin() as connection:
            for table in ("outbox", "outbox_mark"):
                await connection.execute(text(f"UPDATE {table} SET due_at = now() - interval '1 second'"))

    async def records(self, topic: TopicName) -> list[Record]:
        """All records of the topic now, in the order of their partition."""
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
def house(kafka_server: KafkaServer, topic_prefix: str, engine: AsyncEngine, producer: AIOKafkaProducer) -> House:
    return House(kafka_server, topic_prefix, engine, producer)


class Gate:
    """A point that one publisher reaches and waits at."""

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


async def test_an_event_is_published_once_its_transaction_has_committed_and_its_row_deleted(house: House) -> None:
    publisher = house.publisher()
    running = asyncio.create_task(publisher.run())
    async with Outbox(publisher).transaction(house.engine) as transaction:
        for reference in ("pi_1", "pi_2", "pi_3"):
            transaction.publish(entry(reference), traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
        assert await house.records(TopicName.ENTRY_POSTED) == []

    async def is_empty() -> bool:
        return await house.count("outbox") == 0

    await until(is_empty)
    await publisher.drain(5)
    await stopped(running)
    records = await house.records(TopicName.ENTRY_POSTED)
    events = [decode(record.value, EntryPosted) for record in records]
    assert [event.reference for event in events if event] == ["pi_1", "pi_2", "pi_3"]
    assert {record.key for record in records} == {TENANT}
    assert {record.headers["traceparent"][:7] for record in records} == {"00-aaaa"}


async def test_a_transaction_that_fails_publishes_nothing(house: House) -> None:
    class Failed(Exception):
        pass

    publisher = house.publisher()
    with pytest.raises(Failed):
        async with Outbox(publisher).transaction(house.engine) as transaction:
            transaction.publish(entry("pi_1"))
            raise Failed
    await house.grace_is_over()
    await publisher.sweep()
    assert await house.records(TopicName.ENTRY_POSTED) == []


async def test_what_a_process_committed_and_died_over_is_swept_by_another_after_its_grace(house: House) -> None:
    async with Outbox(Dead()).transaction(house.engine) as transaction:
        transaction.publish(entry("pi_1"))
    await house.set_balance(1, Dead())
    other = house.publisher()
    await other.sweep()
    assert await house.records(TopicName.ENTRY_POSTED) == [], "the grace of the one who committed"
    await other.measure()
    assert REGISTRY.get_sample_value("outbox_waiting_rows") == 2
    await house.grace_is_over()
    await other.sweep()
    assert len(await house.records(TopicName.ENTRY_POSTED)) == 1
    assert await house.sent_versions() == [1]
    assert [await house.count("outbox"), await house.count("outbox_mark")] == [0, 0]
    await other.measure()
    assert REGISTRY.get_sample_value("outbox_waiting_rows") == 0
    await other.sweep()
    assert len(await house.records(TopicName.ENTRY_POSTED)) == 1


async def test_a_state_is_read_when_it_is_sent_so_many_marks_are_one_record(house: House) -> None:
    for version in (1, 2, 3):
        await house.set_balance(version, Dead())
    await house.grace_is_over()
    await house.publisher().sweep()
    assert await house.sent_versions() == [3]
    assert await house.count("outbox_mark") == 0


async def test_a_publisher_overtaken_before_its_send_sends_the_newest_state_last(house: House) -> None:
    gate = Gate()
    slow, fast = house.publisher(gate), house.publisher()
    running = [asyncio.create_task(slow.run()), asyncio.create_task(fast.run())]
    await house.set_balance(1, slow)
    async with asyncio.timeout(10):
        await gate.is_reached.wait()  # it has read and announced version 1
    await house.set_balance(2, fast)
    await fast.drain(10)
    assert await house.sent_versions() == [2]
    gate.may_pass.set()
    await slow.drain(10)
    assert await house.sent_versions() == [2, 1, 2]
    await house.grace_is_over()
    await fast.sweep()
    assert (await house.sent_versions())[-1] == 2
    assert await house.count("outbox_mark") == 0
    await stopped(*running)


@pytest.mark.parametrize("starts_as", ["the process that committed", "a sweep"])
async def test_a_publisher_that_dies_after_an_overtaken_send_leaves_a_mark_for_the_sweep(
    house: House, starts_as: str
) -> None:
    before_send, before_look = Gate(), Gate()
    slow, fast = house.publisher(before_send, before_look), house.publisher()
    if starts_as == "a sweep":
        await house.set_balance(1, Dead())
        await house.grace_is_over()
        dying = asyncio.create_task(slow.sweep())
    else:
        dying = asyncio.create_task(slow.run())
        await house.set_balance(1, slow)
    running = asyncio.create_task(fast.run())
    async with asyncio.timeout(10):
        await before_send.is_reached.wait()
    await house.set_balance(2, fast)
    await fast.drain(10)
    before_send.may_pass.set()
    async with asyncio.timeout(10):
        await before_look.is_reached.wait()
    await stopped(dying, running)
    assert await house.sent_versions() == [2, 1], "compaction would keep version 1"
    await house.grace_is_over()
    await fast.sweep()
    assert await house.sent_versions() == [2, 1, 2]
    assert await house.count("outbox_mark") == 0


async def test_a_record_that_lands_long_after_its_send_timed_out_is_followed_by_the_newest_state(house: House) -> None:
    may_deliver = asyncio.Event()
    waiting = house.publisher_with(QueueingProducer(house.producer, may_deliver), send_timeout_s=0.1)
    other = house.publisher()
    running = [asyncio.create_task(each.run()) for each in (waiting, other)]
    await house.set_balance(1, Dead())
    await house.grace_is_over()
    with pytest.raises(TimeoutError):
        await waiting.sweep()
    await house.set_balance(2, other)
    await house.grace_is_over()  # the first one's claim too, as if it had been suspended
    await other.drain(10)
    await other.sweep()
    assert await house.sent_versions() == [2]
    assert await house.count("outbox_mark") == 0
    may_deliver.set()
    await waiting.drain(20)
    assert await house.sent_versions() == [2, 1, 2]
    assert await house.count("outbox_mark") == 0
    await stopped(*running)


async def test_the_claim_of_a_record_that_is_still_on_its_way_is_renewed(house: House) -> None:
    may_deliver = asyncio.Event()
    waiting = house.publisher_with(QueueingProducer(house.producer, may_deliver), send_timeout_s=0.1)
    running = asyncio.create_task(waiting.run())
    await house.set_balance(1, Dead())
    await house.grace_is_over()
    with pytest.raises(TimeoutError):
        await waiting.sweep()
    [claimed] = await house.claims()

    async def is_renewed() -> bool:
        return (await house.claims())[0] > claimed

    await until(is_renewed)
    await house.publisher().sweep()
    assert await house.sent_versions() == [], "another may publish the key, but not take its mark"
    may_deliver.set()
    await waiting.drain(20)
    assert await house.sent_versions() == [1, 1]
    assert await house.count("outbox_mark") == 0
    await stopped(running)


async def test_a_publisher_that_dies_after_it_saw_that_it_was_overtaken_leaves_a_mark(house: House) -> None:
    sends = [Gate(), Gate()]
    passed = iter(sends)

    async def at_each_send() -> None:
        await next(passed)()

    before_look = Gate()
    slow, fast = house.publisher(before_send=at_each_send), house.publisher(before_look=before_look)
    dying, running = asyncio.create_task(slow.run()), asyncio.create_task(fast.run())
    await house.set_balance(1, slow)
    async with asyncio.timeout(10):
        await sends[0].is_reached.wait()
        await house.set_balance(2, fast)
        await before_look.is_reached.wait()
        sends[0].may_pass.set()
        await sends[1].is_reached.wait()  # it has seen version 2, and is about to send that
    await stopped(dying)
    before_look.may_pass.set()
    await fast.drain(10)
    assert await house.sent_versions() == [2, 1], "compaction would keep version 1"
    await stopped(running)
    await house.grace_is_over()
    await house.publisher().sweep()
    assert await house.sent_versions() == [2, 1, 2]
    assert await house.count("outbox_mark") == 0


async def test_whatever_publishers_race_the_last_record_of_a_key_is_its_newest_version(house: House) -> None:
    publishers = [house.publisher() for _ in range(3)]
    running = [asyncio.create_task(publisher.run()) for publisher in publishers]
    for version in range(1, 61):
        await house.set_balance(version, publishers[version % 3])
        if version % 20 == 0:
            await house.grace_is_over()
            await asyncio.gather(*(publisher.sweep() for publisher in publishers))
    for publisher in publishers:
        await publisher.drain(10)
    await house.grace_is_over()
    await publishers[0].sweep()
    assert (await house.sent_versions())[-1] == 60
    assert await house.count("outbox_mark") == 0
    await stopped(*running)
