"""A worker of the consumer group `ledger`, which reads `usage.recorded`, for the tests of the consumer loop."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.servers import KafkaServer
from shared import faults
from shared.consumer import ConsumerLoop, DeadLetterHandler, Subscription
from shared.groups import Group, HeldBack
from shared.kafka import Record, make_consumer
from shared.outbox import Outbox, Transaction
from shared.outbox_publisher import OutboxPublisher
from shared.topics import TopicName

PARTITIONS = 6


@dataclass
class Service:
    """The parts of a worker, and methods that send records and read the results."""

    kafka: KafkaServer
    prefix: str
    engine: AsyncEngine
    producer: AIOKafkaProducer
    before: Callable[[Sequence[Record]], Awaitable[None]] | None = None
    on_dead_letter: DeadLetterHandler | None = None
    batches: list[list[str]] = field(default_factory=list[list[str]])

    @property
    def topic(self) -> str:
        return self.prefix + TopicName.USAGE_RECORDED

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.topic}.ledger.dead-letter"

    def loop(self, name: str = "one", **options: Any) -> ConsumerLoop:
        async def handle(transaction: Transaction, records: Sequence[Record]) -> None:
            names = [(record.value or b"").decode() for record in records]
            self.batches.append(names)
            if self.before is not None:
                await self.before(records)
            await transaction.connection.execute(
                text("INSERT INTO handled (name, by, partition) VALUES (:name, :by, :partition)"),
                [{"name": each, "by": name, "partition": records[0].partition} for each in names],
            )

        publisher = OutboxPublisher(self.engine, self.producer, service="ledger", topic_prefix=self.prefix)
        group = f"{self.prefix}ledger"
        self.consumer = make_consumer(self.kafka.bootstrap_servers, name, group)
        return ConsumerLoop(
            self.consumer,
            group=self.groups(),
            subscriptions=[Subscription(TopicName.USAGE_RECORDED, handle, self.on_dead_letter)],
            engine=self.engine,
            outbox=Outbox(publisher),
            producer=self.producer,
            topic_prefix=self.prefix,
            **options,
        )

    @asynccontextmanager
    async def running(self, loop: ConsumerLoop) -> AsyncGenerator[asyncio.Event]:
        """Runs the loop until the yielded event is set or the block ends."""
        stopping = asyncio.Event()
        task = asyncio.create_task(loop.run(stopping))
        try:
            yield stopping
        finally:
            stopping.set()
            async with asyncio.timeout(30):
                await task

    async def send(self, *names: str, partition: int = 0, key: str = "acme", **headers: str) -> None:
        acknowledgements = [
            await self.producer.send(
                self.topic,
                name.encode(),
                key=key.encode(),
                partition=partition,
                headers=[(header, value.encode()) for header, value in headers.items()],
            )
            for name in names
        ]
        await asyncio.gather(*acknowledgements)

    async def handled(self, partition: int | None = None) -> list[str]:
        where = "" if partition is None else f"WHERE partition = {partition}"
        async with self.engine.connect() as connection:
            return [row.name for row in await connection.execute(text(f"SELECT name FROM handled {where} ORDER BY n"))]

    async def has_handled(self, n: int) -> bool:
        return len(await self.handled()) >= n

    async def is_fetched(self, upto: int) -> bool:
        """Whether the newest loop has fetched all records of partition 0 before the offset `upto`."""
        return await self.consumer.position(TopicPartition(self.topic, 0)) >= upto

    async def committed(self) -> dict[int, int]:
        """The committed offset of each partition that has one."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap_servers)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(f"{self.prefix}ledger")
            return {partition.partition: offset.offset for partition, offset in offsets.items() if offset.offset >= 0}
        finally:
            await admin.close()

    def groups(self) -> Group:
        return Group(self.kafka.bootstrap_servers, "ledger", self.prefix)

    async def held_back(self) -> HeldBack:
        return await self.groups().held_back()

    async def dead_letter_count(self) -> int:
        return sum(each.last - each.first + 1 for each in (await self.held_back()).dead_letters)

    async def dead_letters(self, n: int) -> list[Record]:
        """Reads the first `n` dead letters."""
        consumer = AIOKafkaConsumer(
            self.dead_letter_topic, bootstrap_servers=self.kafka.bootstrap_servers, auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            async with asyncio.timeout(20):
                return [Record.of(await consumer.getone()) for _ in range(n)]
        finally:
            await consumer.stop()


@contextmanager
def held(point: str, hold: faults.Hold) -> Generator[None]:
    """Holds the fault point `point` with `hold` inside the block."""
    faults.hold_at(point, hold)
    try:
        yield
    finally:
        faults.hold_at(point, None)


def names(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(n)]
