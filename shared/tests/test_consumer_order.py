"""Retryable errors at any moment of a fetch.

The consumer returns records at once, as aiokafka does for prefetched records. The handler fails after a varying number
of iterations of the event loop.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.structs import ConsumerRecord

from shared import consumer_partition
from shared.consumer import ConsumerLoop, Subscription
from shared.kafka import Record
from shared.outbox import Transaction
from shared.poison import CommittedState
from shared.topics import TopicName

TOPIC = TopicName.USAGE_RECORDED
PARTITION = TopicPartition(TOPIC, 0)
RECORDS, BATCH_RECORDS = 6, 2


class ImmediateConsumer:
    """A consumer of one partition whose records have been prefetched."""

    def __init__(self) -> None:
        self.position_ = 0
        self.committed: list[int] = []
        self.all_committed = asyncio.Event()
        self._paused: set[TopicPartition] = set()

    def subscribe(self, topics: Sequence[str], listener: ConsumerRebalanceListener) -> None:
        self._listener = listener

    async def start(self) -> None:
        await cast(Any, self._listener).on_partitions_assigned({PARTITION})

    async def stop(self) -> None: ...

    def paused(self) -> set[TopicPartition]:
        return self._paused

    def pause(self, partition: TopicPartition) -> None:
        self._paused = {partition}

    def resume(self, partition: TopicPartition) -> None:
        self._paused = set()

    def assignment(self) -> Iterable[TopicPartition]:
        return {PARTITION}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.position_ = offset

    async def commit(self, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        offset, _metadata = offsets[PARTITION]
        self.committed.append(offset)
        if offset == RECORDS:
            self.all_committed.set()

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int
    ) -> Mapping[TopicPartition, Sequence[Any]]:
        if self._paused or self.position_ >= RECORDS:
            await asyncio.sleep(timeout_ms / 1000)
            return {}
        first, self.position_ = self.position_, min(RECORDS, self.position_ + max_records)
        offsets = range(first, self.position_)
        return {PARTITION: [ConsumerRecord(TOPIC, 0, n, 0, 0, b"acme", b"", None, 4, 0, ()) for n in offsets]}


class EmptyGroup:
    """A group that has no offsets yet."""

    service = "ledger"

    async def states(self) -> Mapping[TopicPartition, CommittedState]:
        return {}


class NoOutbox:
    @asynccontextmanager
    async def transaction(self, engine: object, tenant: str | None = None) -> AsyncGenerator[Any]:
        yield None


@pytest.mark.parametrize("failures", [1, 2])
@pytest.mark.parametrize("turns", range(9))
async def test_records_are_handled_in_order_whenever_a_retryable_error_occurs(
    turns: int, failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_partition, "BACKOFF_MAX_S", 0.02)
    handled: list[int] = []
    failed = 0

    async def handle(_transaction: Transaction, records: Sequence[Record]) -> None:
        nonlocal failed
        if failed < failures:
            failed += 1
            for _ in range(turns):
                await asyncio.sleep(0)
            raise ConnectionRefusedError
        handled.extend(record.offset for record in records)

    consumer = ImmediateConsumer()
    unused: Any = None
    loop = ConsumerLoop(
        cast(Any, consumer), group=cast(Any, EmptyGroup()), subscriptions=[Subscription(TOPIC, handle)],
        engine=unused,
        outbox=cast(Any, NoOutbox()), producer=unused, topic_prefix="", batch_records_max=BATCH_RECORDS,
    )  # fmt: skip
    stopping = asyncio.Event()
    running = asyncio.create_task(loop.run(stopping))
    async with asyncio.timeout(10):
        await consumer.all_committed.wait()
        stopping.set()
        await running
    assert handled == list(range(RECORDS))
    assert consumer.committed == sorted(consumer.committed)
