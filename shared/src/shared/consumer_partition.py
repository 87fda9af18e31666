"""One partition of a consumer: where it stands, and how its batches are handled.

A batch that fails as a whole is bisected until the record that cannot be handled is alone; that one goes to the dead
letters. After a retryable error the partition waits, and the same records are fetched again.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.contextvars import bound_contextvars

from shared.clock import utc_now
from shared.consumer_offsets import OffsetCommits
from shared.database import is_time_out
from shared.faults import fault_point
from shared.kafka import Record
from shared.logs import get_logger, redact
from shared.outbox import Outbox, Transaction
from shared.poison import REASON_CHARACTERS_MAX, CommittedState, PartitionStop, Poison, send_to_dead_letters
from shared.producer import Sender
from shared.retries import is_retryable
from shared.topics import TopicName
from shared.trace import current_traceparent

log = get_logger()

HANDLER_TIMEOUT_S = 20.0
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 15.0
TIME_OUTS_BEFORE_BISECTION = 3

_records = Counter("consumer_records_total", "Records handled.", ["topic", "outcome"])
_batch_seconds = Histogram("consumer_batch_seconds", "From a fetched batch to its commit.", ["topic"])
partition_stopped = Gauge(
    "consumer_partition_stopped", "1: too much poison, an operator has to look.", ["topic", "partition"]
)

Handler = Callable[[Transaction, Sequence[Record]], Awaitable[None]]
DeadLetterHandler = Callable[[Transaction, Record], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic and its handler: a batch of one partition's records, in order, in one transaction.

    `on_dead_letter` runs, in a transaction of its own, before a record of this topic goes to the dead letters.
    """

    topic: TopicName
    handle: Handler
    on_dead_letter: DeadLetterHandler | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that were fetched in one epoch of their partition, and the task that handles them."""

    first_offset: int
    epoch: int
    handling: asyncio.Task[None]


@dataclass(slots=True)
class PartitionState:
    """Where a partition stands. Of its `batches`, the first is being handled or is the next to be.

    `epoch` counts how often the partition went back to an offset. A batch of an older epoch is stale: its records are
    fetched again.
    """

    partition: TopicPartition
    batches: deque[Batch] = field(default_factory=deque[Batch])
    epoch: int = 0
    failures: int = 0
    time_outs_in_a_row: int = 0
    resume_at: float | None = None
    committed: CommittedState | None = None  # None: not yet read from the group's offsets
    stop: PartitionStop | None = None

    def first_unhandled_offset(self) -> int | None:
        """The offset of the first record that was fetched and is not handled yet; None where all are handled."""
        for batch in self.batches:
            if batch.epoch == self.epoch and not batch.handling.done():
                return batch.first_offset
        return None

    def split(self, records: list[Record]) -> list[list[Record]]:
        """The records in the parts in which they are tried: all at once, or fewer the longer they time out."""
        halvings = self.time_outs_in_a_row // TIME_OUTS_BEFORE_BISECTION
        size = max(1, -(-len(records) >> halvings))
        return [records[start : start + size] for start in range(0, len(records), size)]

    def back_off(self, error: Exception, now_s: float) -> float:
        """Counts a failure, and returns for how many seconds the partition waits."""
        self.failures += 1
        self.time_outs_in_a_row = self.time_outs_in_a_row + 1 if is_time_out(error) else 0
        longest_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self.failures, 10))
        delay_s = random.uniform(longest_s / 2, longest_s)  # noqa: S311  # jitter, not a secret
        self.resume_at = now_s + delay_s
        return delay_s

    def reset_failures(self) -> None:
        """Forgets the failures: a whole batch has been handled."""
        self.failures = self.time_outs_in_a_row = 0

    def may_resume(self, now_s: float) -> bool:
        """Whether the partition has waited long enough, and has not stopped."""
        return self.resume_at is not None and self.resume_at <= now_s and self.stop is None


class BatchProcessor:
    """Handles the batches of any partition: each part in one transaction, then published, then counted."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        offsets: OffsetCommits,
        subscriptions: Mapping[str, Subscription],
        *,
        service: str,
        engine: AsyncEngine,
        outbox: Outbox,
        producer: Sender,
        topic_prefix: str,
    ) -> None:
        self._consumer = consumer
        self._offsets = offsets
        self._subscriptions = subscriptions
        self._service = service
        self._engine = engine
        self._outbox = outbox
        self._producer = producer
        self._prefix = topic_prefix

    async def process(self, state: PartitionState, committed: CommittedState, records: list[Record]) -> int:
        """Handles what it can and returns the offset to go on from. Where that is not the end, the partition is paused
        there: for a while, or, with too much poison, until an operator has looked."""
        next_offset = records[0].offset
        parts = deque(state.split(records))
        while parts:
            part = parts.popleft()
            try:
                await self._handle(part)
                committed.budget.count_handled(part[-1].offset)
            except Exception as error:
                if is_retryable(error):
                    self.back_off(state, next_offset, error)
                    return next_offset
                if len(part) > 1:
                    parts.extendleft(_bisected(part))
                    continue
                if committed.budget.is_exceeded_by(error, part[0].key, next_offset):
                    self._stop(state, next_offset, error)
                    return next_offset
                try:
                    await self._dead_letter(state, committed, part[0], error)
                except Exception as failure:
                    if not is_retryable(failure):
                        raise
                    self.back_off(state, next_offset, failure)
                    return next_offset
            next_offset = part[-1].offset + 1
        state.reset_failures()
        return next_offset

    def back_off(self, state: PartitionState, offset: int, error: Exception) -> None:
        """Pauses the partition before `offset`, longer with each failure."""
        delay_s = state.back_off(error, asyncio.get_running_loop().time())
        self._pause(state, offset)
        log.warning(
            "partition_waits",
            topic=state.partition.topic,
            partition=state.partition.partition,
            offset=offset,
            failures=state.failures,
            delay_s=round(delay_s, 2),
            error=f"{type(error).__name__}: {error}"[:500],
        )

    async def _handle(self, records: Sequence[Record]) -> None:
        subscription = self._subscriptions[records[0].topic]
        traceparent = records[0].headers.get("traceparent")
        with (
            bound_contextvars(topic=records[0].topic, partition=records[0].partition, offset=records[0].offset),
            _batch_seconds.labels(subscription.topic).time(),
        ):
            token = current_traceparent.set(traceparent)
            try:
                async with asyncio.timeout(HANDLER_TIMEOUT_S), self._outbox.transaction(self._engine) as transaction:
                    await subscription.handle(transaction, records)
                    await fault_point(f"{self._service}.handled")
            finally:
                current_traceparent.reset(token)
            log.debug("batch_committed", records=len(records))
        _records.labels(subscription.topic, "handled").inc(len(records))
        await fault_point(f"{self._service}.committed")

    async def _dead_letter(
        self, state: PartitionState, committed: CommittedState, record: Record, error: Exception
    ) -> None:
        """Counts the record, then sends it to the dead letters: whoever has the partition after a crash has to know. A
        worker that has lost the partition learns it by the commit, and sends nothing."""
        committed.budget.count_dead_letter(error, record.key, record.offset)
        committed.stop = None
        await self._offsets.commit(state.partition, record.offset, committed)
        subscription = self._subscriptions[record.topic]
        reason = f"{type(error).__name__}: {error}"
        if subscription.on_dead_letter is not None:
            async with asyncio.timeout(HANDLER_TIMEOUT_S), self._outbox.transaction(self._engine) as transaction:
                await subscription.on_dead_letter(transaction, record)
        await send_to_dead_letters(
            self._producer,
            record,
            group=self._service,
            reason=redact(reason),
            tries=state.failures + 1,
            now=utc_now(),
            topic_prefix=self._prefix,
        )
        _records.labels(subscription.topic, "dead_lettered").inc()
        await fault_point(f"{self._service}.set_aside")
        log.error(
            "record_dead_lettered",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            reason=reason,
            exc_info=None if isinstance(error, Poison) else error,
        )

    def _stop(self, state: PartitionState, offset: int, error: Exception) -> None:
        reason = redact(f"{type(error).__name__}: {error}")[:REASON_CHARACTERS_MAX]
        state.stop = PartitionStop(offset, reason)
        self._pause(state, offset)
        partition_stopped.labels(state.partition.topic, state.partition.partition).set(1)
        log.critical(
            "partition_stopped",
            topic=state.partition.topic,
            partition=state.partition.partition,
            offset=offset,
            error=reason,
            next_step="Too many records cannot be read: fix or roll back this deploy, then restart the worker. Records "
            "that are wrong in themselves can be accepted: python -m shared.dead_letters accept.",
        )

    def _pause(self, state: PartitionState, offset: int) -> None:
        state.epoch += 1
        self._consumer.seek(state.partition, offset)
        self._consumer.pause(state.partition)


def _bisected(part: list[Record]) -> Iterator[list[Record]]:
    """The second half, then the first, as `extendleft` takes them."""
    middle = len(part) // 2
    yield part[middle:]
    yield part[:middle]
