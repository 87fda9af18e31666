"""The consumer loop of every worker: fetch, one transaction a batch, offsets after the commit.

    fetch ─▶ handler(transaction, records) ─▶ commit ─▶ publish the outbox ─▶ commit offsets   (a partition)
                 │ transient: the partition waits and tries the same records again, the others go on;
                 │            a batch that takes too long again and again is tried in halves
                 └ poison: the batch is split until the record is alone, and that one goes to the dead letters

Handlers are idempotent by keys of their own, so a crash at any arrow only repeats work. A few partitions are handled at
once, so that one is planned while another is written. While a partition's batch is handled its next one is fetched, and
while that is handled the offset after the first is committed: only who has nothing to do waits for Kafka.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaConnectionError, KafkaError
from aiokafka.structs import ConsumerRecord
from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.contextvars import bound_contextvars

from shared.clock import utc_now
from shared.database import is_time_out, is_transient
from shared.faults import fault_point
from shared.groups import Group
from shared.kafka import Record, stop_consumer
from shared.logs import get_logger, redact
from shared.outbox import Outbox, Transaction
from shared.poison import REASON_CHARACTERS_MAX, PartitionState, Poison, Stop, send_to_dead_letters
from shared.producer import Sender
from shared.topics import TopicName
from shared.trace import current_traceparent

log = get_logger()

START_TIMEOUT_S = 60.0
START_AGAIN_AFTER_S = 1.0
HANDLER_TIMEOUT_S = 20.0
BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 15.0
TIME_OUTS_BEFORE_HALVES = 3
POLL_TIMEOUT_MS = 200
OBSERVE_TIMEOUT_S = 2.0
#: Batches that wait while others are handled: of one partition, and of all together.
BATCHES_AHEAD = 1
BATCHES_WAITING_MAX = 1

_records = Counter("consumer_records_total", "Records handled.", ["topic", "outcome"])
_batch_seconds = Histogram("consumer_batch_seconds", "From a fetched batch to its commit.", ["topic"])
_lag = Gauge("consumer_lag_records", "Records behind the end of the partition.", ["topic", "partition"])
_stopped = Gauge("consumer_partition_stopped", "1: too much poison, an operator has to look.", ["topic", "partition"])
_held_back = Gauge("consumer_held_back_records", "Records that a stopped partition holds back.", ["topic", "partition"])

Handler = Callable[[Transaction, Sequence[Record]], Awaitable[None]]
DeadLetterHandler = Callable[[Transaction, Record], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Subscription:
    """A topic and its handler: a batch of one partition's records, in order, in one transaction.

    `on_dead_letter` runs, in a transaction of its own, before a record of this topic is set aside.
    """

    topic: TopicName
    handle: Handler
    on_dead_letter: DeadLetterHandler | None = None


@dataclass(frozen=True, slots=True)
class _Batch:
    """Records in hand, fetched when their lane had rewound `rewinds` times."""

    first_offset: int
    rewinds: int
    handling: asyncio.Task[None]


@dataclass(slots=True)
class _Lane:
    """A partition: its batches, the first of which is being handled or about to be, and how it fares.

    `rewinds` counts how often it went back to an offset: what was fetched before that is void.
    """

    batches: deque[_Batch] = field(default_factory=deque[_Batch])
    rewinds: int = 0
    failures: int = 0
    time_outs_in_a_row: int = 0
    resume_at: float | None = None
    state: PartitionState | None = None  # None: not yet read from the group's offsets
    stop: Stop | None = None


class ConsumerLoop(ConsumerRebalanceListener):
    """Runs the subscriptions of one group. `caught_up_at` tells when each partition was last seen read to its end, by
    `clock`: the database's (`DatabaseClock.now`) where something is decided by it."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        *,
        group: Group,
        subscriptions: Iterable[Subscription],
        engine: AsyncEngine,
        outbox: Outbox,
        producer: Sender,
        topic_prefix: str,
        batch_records_max: int = 500,
        partitions_at_once: int = 3,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._consumer = consumer
        self._clock = clock
        self._group = group
        self._subscriptions = {topic_prefix + each.topic: each for each in subscriptions}
        self._engine = engine
        self._outbox = outbox
        self._producer = producer
        self._prefix = topic_prefix
        self._batch_records_max = batch_records_max
        self._slots = asyncio.Semaphore(partitions_at_once)
        self._batches_max = partitions_at_once + BATCHES_WAITING_MAX
        self._ours: frozenset[TopicPartition] = frozenset()
        self._lanes: dict[TopicPartition, _Lane] = {}
        self._is_running = False
        self._fetches: dict[asyncio.Task[None], frozenset[TopicPartition]] = {}
        self._handled_to: dict[TopicPartition, tuple[int, str]] = {}  # offsets and their metadata, to be committed
        self._states: Mapping[TopicPartition, PartitionState] | None = None  # as they were when these were given out
        self._reading_states = asyncio.Lock()
        self._committing: asyncio.Task[None] | None = None
        self.caught_up_at: dict[tuple[TopicName, int], datetime] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Consumes until `stopping` is set; what is in flight then is finished first, and the group is left."""
        self._consumer.subscribe(list(self._subscriptions), listener=self)
        await self._start(stopping)
        if stopping.is_set():
            await stop_consumer(self._consumer)  # it may have joined: the group need not wait for its session to end
            return
        self._is_running = True
        stop = asyncio.create_task(stopping.wait())
        try:
            while not stopping.is_set():
                await self._advance(stop)
            for fetch in self._fetches:
                fetch.cancel()
            self._ours = frozenset()
            await self._batches_end()
            self._note_ended()
        finally:
            stop.cancel()
            self._is_running = False
            ends = [*self._fetches, *self._at_work()]
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            await stop_consumer(self._consumer)

    async def _advance(self, stop: asyncio.Task[Any]) -> None:
        """Waits for what comes first: new batches, one that is handled, a partition that may go on, or the end."""
        self._resume_partitions()
        for partitions in self._to_be_fetched():
            self._fetches[asyncio.create_task(self._fetch(partitions))] = partitions
        await asyncio.wait(
            [stop, *self._fetches, *self._at_work()],
            return_when=asyncio.FIRST_COMPLETED,
            timeout=POLL_TIMEOUT_MS / 1000,
        )
        for fetch in [each for each in self._fetches if each.done()]:
            del self._fetches[fetch]
            fetch.result()
        self._note_ended()

    def _to_be_fetched(self) -> Iterable[frozenset[TopicPartition]]:
        """Fetches to begin beside those that wait, which are never cancelled: aiokafka would take the consumer for
        polling ever after. Busy partitions are fetched from one by one, a batch ahead, and all others together. Nothing
        in particular (no partition) where that is all there is to do: a member that does not poll is taken for dead."""
        batches = {partition: len(lane.batches) for partition, lane in self._lanes.items() if lane.batches}
        if sum(batches.values()) >= self._batches_max and self._slots.locked():
            return
        free = self._ours - self._consumer.paused() - frozenset[TopicPartition]().union(*self._fetches.values())
        if idle := free - batches.keys():
            yield idle
        for partition in free & batches.keys():
            if batches[partition] <= BATCHES_AHEAD:
                yield frozenset([partition])
        if not free and not batches and not self._fetches:
            yield frozenset()

    async def _fetch(self, partitions: Iterable[TopicPartition]) -> None:
        fetched = await self._consumer.getmany(
            *partitions, timeout_ms=POLL_TIMEOUT_MS, max_records=self._batch_records_max
        )
        for partition, records in fetched.items():
            if partition in self._ours and records:
                lane = self._lanes.setdefault(partition, _Lane())
                before = lane.batches[-1].handling if lane.batches else None
                handling = asyncio.create_task(self._handle(partition, lane, records, before, lane.rewinds))
                lane.batches.append(_Batch(records[0].offset, lane.rewinds, handling))

    def _at_work(self) -> Sequence[asyncio.Task[None]]:
        """What handles batches and commits their offsets."""
        batches = [batch.handling for lane in self._lanes.values() for batch in lane.batches]
        return batches if self._committing is None else [*batches, self._committing]

    async def _batches_end(self) -> None:
        """Waits for the batches in flight and their offsets."""
        while pending := [task for task in self._at_work() if not task.done()]:
            await asyncio.wait(pending)

    def _note_ended(self) -> None:
        """Raises what ended a batch, or the commit of offsets, and should not have."""
        for lane in self._lanes.values():
            while lane.batches and lane.batches[0].handling.done():
                lane.batches.popleft().handling.result()
        if self._committing is not None and self._committing.done():
            committing, self._committing = self._committing, None
            committing.result()

    async def _start(self, stopping: asyncio.Event) -> None:
        """Kafka may have gone since the process has seen it answer. Waits for it as whoever starts does."""
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while not stopping.is_set():
            try:
                await self._consumer.start()
                return
            except KafkaConnectionError as error:  # nothing has been begun: start may be called again
                remaining_s = deadline - asyncio.get_running_loop().time()
                if remaining_s <= 0:
                    raise
                log.warning("waiting_for_kafka", remaining_s=round(remaining_s), error=str(error))
                await asyncio.sleep(START_AGAIN_AFTER_S)

    async def problem(self) -> str | None:
        """What keeps this consumer from its work, or None. For /readyz."""
        if not self._is_running:
            return "has not joined its group yet"
        try:
            async with asyncio.timeout(OBSERVE_TIMEOUT_S):
                ends = await self._consumer.end_offsets(list(self._consumer.assignment()))
        except (TimeoutError, KafkaError) as error:
            return f"Kafka does not answer ({type(error).__name__})"
        stopped = sorted(
            f"{tp.topic}:{tp.partition} at offset {lane.stop.offset}, "
            f"{max(0, ends.get(tp, 0) - lane.stop.offset)} records held back"
            for tp, lane in self._lanes.items()
            if lane.stop is not None
        )
        return f"stopped for too much poison: {'; '.join(stopped)}" if stopped else None

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]  # aiokafka awaits it
        self, revoked: Iterable[TopicPartition]
    ) -> None:
        """Waits for the batches in flight, so that nobody else starts on their records before their offsets are
        committed; until partitions are given out anew, no other is begun."""
        log.info("partitions_revoking")
        self._ours = frozenset()
        await self._batches_end()
        self._states = None
        for partition in revoked:
            self._lanes.pop(partition, None)
            for gauge in (_lag, _stopped, _held_back):  # whoever has the partition next tells about it
                gauge.remove(partition.topic, partition.partition)
            self.caught_up_at.pop((self._topic_name(partition), partition.partition), None)

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, assigned: Iterable[TopicPartition]
    ) -> None:
        self._ours = frozenset(assigned)
        log.info("partitions_assigned", partitions=sorted(f"{tp.topic}:{tp.partition}" for tp in assigned))

    async def observe(self) -> None:
        """Measures the lag, notes which partitions have been read, and handled, to their end, and lets stopped ones go
        on whose poison an operator has accepted."""
        if not self._is_running:
            return
        now = self._clock()
        try:
            async with asyncio.timeout(OBSERVE_TIMEOUT_S):
                handled_to = {partition: await self._position(partition) for partition in self._ours}
                ends = await self._consumer.end_offsets([*handled_to]) if handled_to else {}
        except IllegalStateError:  # somebody else's by now
            return
        for partition, end in ends.items():
            if partition not in self._ours:
                continue
            behind = max(0, end - handled_to[partition])
            _lag.labels(partition.topic, partition.partition).set(behind)
            lane = self._lanes.get(partition)
            if lane is not None and lane.stop is not None:
                _held_back.labels(partition.topic, partition.partition).set(behind)
            if behind == 0:
                self.caught_up_at[self._topic_name(partition), partition.partition] = now
        await self._go_on_where_accepted()

    async def _position(self, partition: TopicPartition) -> int:
        """Up to where the partition's records have been handled."""
        fetched_to = await self._consumer.position(partition)
        lane = self._lanes.get(partition)
        if lane is not None:
            for batch in lane.batches:
                if batch.rewinds == lane.rewinds and not batch.handling.done():
                    return batch.first_offset
        return fetched_to

    async def _handle(
        self,
        partition: TopicPartition,
        lane: _Lane,
        raw: Sequence[ConsumerRecord[bytes | None, bytes | None]],
        before: asyncio.Task[None] | None,
        rewinds: int,
    ) -> None:
        """One batch, after the one `before` it: handled and committed. The offset after it is committed soon. Void
        where the lane has rewound since `rewinds`, which is told by who fetched: this begins later."""
        if before is not None:
            await before
        async with self._slots:
            if partition not in self._ours or lane.rewinds != rewinds:
                return
            records = [Record.of(each) for each in raw]
            await fault_point(f"{self._group.service}.fetched")
            try:
                state = lane.state = lane.state or await self._remembered(partition)
            except (TimeoutError, KafkaError) as error:
                self._back_off(partition, lane, records[0].offset, error)
                return
            end = await self._handle_partition(partition, lane, state, records)
        if end > records[0].offset or lane.stop is not None:
            state.stop = lane.stop
            self._handled_to[partition] = end, state.to_metadata()
            if self._committing is None or self._committing.done():
                self._committing = asyncio.create_task(self._commit_offsets())

    async def _commit_offsets(self) -> None:
        """Commits what has been handled, and what is meanwhile."""
        while self._handled_to:
            offsets, self._handled_to = self._handled_to, {}
            try:
                await self._consumer.commit(offsets)
            except KafkaError as error:  # the records come again and change nothing
                log.warning("offsets_not_committed", error=type(error).__name__)
            await fault_point(f"{self._group.service}.offsets_committed")

    async def _remembered(self, partition: TopicPartition) -> PartitionState:
        """What the group knows of the partition. Whoever has it writes it, so one question is enough for all that are
        given out together."""
        async with self._reading_states:
            if self._states is None:
                self._states = await self._group.states()
            return self._states.get(partition) or PartitionState()

    async def _go_on_where_accepted(self) -> None:
        stopped = {partition: lane for partition, lane in self._lanes.items() if lane.stop is not None}
        if not stopped:
            return
        accepted = await self._group.accepted()
        for partition, lane in stopped.items():
            if lane.state is None or lane.stop is None or accepted.get(partition, 0) <= lane.stop.offset:
                continue
            log.info("poison_accepted", topic=partition.topic, partition=partition.partition, to=accepted[partition])
            lane.state.budget.accepted_to = accepted[partition]
            lane.stop = None
            lane.resume_at = asyncio.get_running_loop().time()
            if self._lanes.get(partition) is lane:
                _stopped.labels(partition.topic, partition.partition).set(0)
                _held_back.labels(partition.topic, partition.partition).set(0)

    async def _handle_partition(
        self, partition: TopicPartition, lane: _Lane, state: PartitionState, records: list[Record]
    ) -> int:
        """Handles what it can and returns the offset to go on from; where that is not the end, it pauses there."""
        next_offset = records[0].offset
        parts = _parts_of(records, halved=lane.time_outs_in_a_row // TIME_OUTS_BEFORE_HALVES)
        while parts:
            part = parts.pop(0)
            try:
                await self._apply(part)
                state.budget.good(part[-1].offset)
            except Exception as error:
                if _is_passing(error):
                    self._back_off(partition, lane, next_offset, error)
                    return next_offset
                if len(part) > 1:
                    middle = len(part) // 2
                    parts[:0] = [part[:middle], part[middle:]]
                    continue
                if state.budget.is_exceeded_by(error, part[0].key, next_offset):
                    self._stop(partition, lane, next_offset, error)
                    return next_offset
                try:
                    await self._spend(partition, state, part[0], error)
                    await self._set_aside(part[0], error, tries=lane.failures + 1)
                except Exception as failure:
                    if not _is_passing(failure):
                        raise
                    self._back_off(partition, lane, next_offset, failure)
                    return next_offset
            next_offset = part[-1].offset + 1
        lane.failures = lane.time_outs_in_a_row = 0
        return next_offset

    async def _apply(self, records: Sequence[Record]) -> None:
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
                    await fault_point(f"{self._group.service}.handled")
            finally:
                current_traceparent.reset(token)
            log.debug("batch_committed", records=len(records))
        _records.labels(subscription.topic, "handled").inc(len(records))
        await fault_point(f"{self._group.service}.committed")

    async def _spend(self, partition: TopicPartition, state: PartitionState, record: Record, error: Exception) -> None:
        """Counts the record before it is set aside, for whoever has the partition after a crash. A worker that has lost
        the partition learns it here, and sets nothing aside."""
        state.budget.set_aside(error, record.key, record.offset)
        state.stop = None
        self._handled_to.pop(partition, None)  # older; what is being committed comes before this
        await self._consumer.commit({partition: (record.offset, state.to_metadata())})

    async def _set_aside(self, record: Record, error: Exception, tries: int) -> None:
        subscription = self._subscriptions[record.topic]
        reason = f"{type(error).__name__}: {error}"
        if subscription.on_dead_letter is not None:
            async with asyncio.timeout(HANDLER_TIMEOUT_S), self._outbox.transaction(self._engine) as transaction:
                await subscription.on_dead_letter(transaction, record)
        await send_to_dead_letters(
            self._producer,
            record,
            group=self._group.service,
            reason=redact(reason),
            tries=tries,
            now=utc_now(),
            topic_prefix=self._prefix,
        )
        _records.labels(subscription.topic, "dead_lettered").inc()
        await fault_point(f"{self._group.service}.set_aside")
        log.error(
            "record_dead_lettered",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            reason=reason,
            exc_info=None if isinstance(error, Poison) else error,
        )

    def _back_off(self, partition: TopicPartition, lane: _Lane, offset: int, error: Exception) -> None:
        lane.failures += 1
        lane.time_outs_in_a_row = lane.time_outs_in_a_row + 1 if is_time_out(error) else 0
        longest_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(lane.failures, 10))
        delay_s = random.uniform(longest_s / 2, longest_s)  # noqa: S311  # jitter, not a secret
        lane.resume_at = asyncio.get_running_loop().time() + delay_s
        self._pause(partition, offset)
        log.warning(
            "partition_waits",
            topic=partition.topic,
            partition=partition.partition,
            offset=offset,
            failures=lane.failures,
            delay_s=round(delay_s, 2),
            error=f"{type(error).__name__}: {error}"[:500],
        )

    def _stop(self, partition: TopicPartition, lane: _Lane, offset: int, error: Exception) -> None:
        reason = redact(f"{type(error).__name__}: {error}")[:REASON_CHARACTERS_MAX]
        lane.stop = Stop(offset, reason)
        self._pause(partition, offset)
        _stopped.labels(partition.topic, partition.partition).set(1)
        log.critical(
            "partition_stopped",
            topic=partition.topic,
            partition=partition.partition,
            offset=offset,
            error=reason,
            next_step="Too many records cannot be read: fix or roll back this deploy, then restart the worker. Records "
            "that are wrong in themselves can be accepted: python -m shared.dead_letters accept.",
        )

    def _pause(self, partition: TopicPartition, offset: int) -> None:
        self._lanes[partition].rewinds += 1
        self._consumer.seek(partition, offset)
        self._consumer.pause(partition)

    def _resume_partitions(self) -> None:
        now = asyncio.get_running_loop().time()
        for partition, lane in self._lanes.items():
            if lane.resume_at is not None and lane.resume_at <= now and lane.stop is None:
                lane.resume_at = None
                if partition in self._consumer.assignment():
                    self._consumer.resume(partition)

    def _topic_name(self, partition: TopicPartition) -> TopicName:
        return self._subscriptions[partition.topic].topic


def _parts_of(records: list[Record], halved: int) -> list[list[Record]]:
    size = max(1, -(-len(records) >> halved))
    return [records[start : start + size] for start in range(0, len(records), size)]


def _is_passing(error: Exception) -> bool:
    return is_transient(error) or isinstance(error, KafkaError)
