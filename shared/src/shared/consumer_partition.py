"""The state of one partition of a consumer, and the handling of its batches.

After a retryable error the partition backs off, and the same records are fetched again. After any other error the batch
is bisected until the bad record is alone; that record is dead-lettered.
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
TIME_OUTS_BEFORE_HALVING = 3

_records = Counter("consumer_records_total", "Records handled.", ["topic", "outcome"])
_batch_seconds = Histogram("consumer_batch_seconds", "From a fetched batch to its commit.", ["topic"])
partition_stopped = Gauge(
    "consumer_partition_stopped", "1: too much poison, an operator has to look.", ["topic", "partition"]
)

Handler = Callable[[Transaction, Sequence[Record]], Awaitable[None]]
DeadLetterHandler = Callable[[Transaction, Record], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic and its handler. `handle` gets a batch of records of one partition, in order, in one transaction.

    `on_dead_letter` runs in its own transaction before a record of this topic is dead-lettered.
    """

    topic: TopicName
    handle: Handler
    on_dead_letter: DeadLetterHandler | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Records that were fetched together, the partition's epoch at that time, and the task that handles them."""

    first_offset: int
    epoch: int
    handling: asyncio.Task[None]


@dataclass(slots=True)
class PartitionState:
    """The state of a partition in its worker's memory. `batches` are handled one after the other, the first one first.

    `epoch` counts how often the partition was rewound to an offset. A batch of an older epoch is stale: its records are
    fetched again.
    """

    partition: TopicPartition
    batches: deque[Batch] = field(default_factory=deque[Batch])
    epoch: int = 0
    failures: int = 0
    time_outs_in_a_row: int = 0
    resume_at: float | None = None
    committed: CommittedState | None = None  # None until it is read from the group's offsets
    stop: PartitionStop | None = None

    def first_unhandled_offset(self) -> int | None:
        """The offset of the first fetched record that is not handled yet, or None if all are handled."""
        for batch in self.batches:
            if batch.epoch == self.epoch and not batch.handling.done():
                return batch.first_offset
        return None

    def split(self, records: list[Record]) -> list[list[Record]]:
        """Splits a batch into the parts that are handled in one transaction each: one part, and smaller ones after
        repeated time-outs."""
        splits = self.time_outs_in_a_row // TIME_OUTS_BEFORE_HALVING
        size = max(1, -(-len(records) >> splits))
        return [records[start : start + size] for start in range(0, len(records), size)]

    def back_off(self, error: Exception, now_s: float) -> float:
        """Counts a failure and sets `resume_at`. Returns the delay in seconds."""
        self.failures += 1
        self.time_outs_in_a_row = self.time_outs_in_a_row + 1 if is_time_out(error) else 0
        longest_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(self.failures, 10))
        delay_s = random.uniform(longest_s / 2, longest_s)  # noqa: S311  # jitter, not a secret
        self.resume_at = now_s + delay_s
        return delay_s

    def reset_failures(self) -> None:
        """Resets the failure counters, once a whole batch has been handled."""
        self.failures = self.time_outs_in_a_row = 0

    def may_resume(self, now_s: float) -> bool:
        """Whether the back-off is over and the partition is not stopped."""
        return self.resume_at is not None and self.resume_at <= now_s and self.stop is None


class BatchProcessor:
    """Handles the batches of all partitions of a consumer, each part of a batch in one transaction."""

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
        """Handles a batch and returns the offset of the next record to handle.

        If that is not the end of the batch, the partition is paused at that offset: for its back-off after a retryable
        error, or until an operator acts if there is too much poison.
        """
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
        """Pauses the partition at `offset`, longer after each failure."""
        delay_s = state.back_off(error, asyncio.get_running_loop().time())
        self._rewind_and_pause(state, offset)
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
        """Counts the record in the poison budget, commits that, and sends the record to the dead letters.

        The commit comes first, so that after a crash the partition's next owner knows of the record. If the partition
        has been assigned to another worker, the commit fails and nothing is sent.
        """
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
        self._rewind_and_pause(state, offset)
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

    def _rewind_and_pause(self, state: PartitionState, offset: int) -> None:
        state.epoch += 1
        self._consumer.seek(state.partition, offset)
        self._consumer.pause(state.partition)


def _bisected(part: list[Record]) -> Iterator[list[Record]]:
    """Yields the second half, then the first: `extendleft` reverses their order."""
    middle = len(part) // 2
    yield part[middle:]
    yield part[:middle]
