"""The consumer loop of every worker: fetch a batch, handle it in one transaction, then commit its offsets.

    fetch ─▶ handler(transaction, records) ─▶ commit ─▶ publish the outbox ─▶ commit offsets   (per partition)
                 │ retryable error: the partition backs off and retries the same records; the others go on;
                 │                  a batch that times out repeatedly is retried in smaller parts
                 └ other error:     the batch is bisected until the bad record is alone, which is dead-lettered

Handlers are idempotent, so a crash at any arrow only repeats work. A few partitions are handled concurrently: while one
batch waits for the database, another is computed. While a batch is handled, the next batch of its partition is fetched
and the offset after the previous one is committed, so the loop waits for Kafka only when it has nothing else to do.

This module handles assignment, fetching, offsets and shutdown. `consumer_partition` handles a partition's batches.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaConnectionError, KafkaError
from aiokafka.structs import ConsumerRecord
from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.clock import utc_now
from shared.consumer_offsets import OffsetCommits
from shared.consumer_partition import (
    Batch,
    BatchProcessor,
    DeadLetterHandler,
    Handler,
    PartitionState,
    Subscription,
    partition_stopped,
)
from shared.faults import fault_point
from shared.groups import Group
from shared.kafka import Record, stop_consumer
from shared.logs import get_logger
from shared.outbox import Outbox
from shared.poison import CommittedState
from shared.producer import Sender
from shared.topics import TopicName

__all__ = ["ConsumerLoop", "DeadLetterHandler", "Handler", "Subscription"]

log = get_logger()

START_TIMEOUT_S = 60.0
START_RETRY_DELAY_S = 1.0
POLL_TIMEOUT_MS = 200
OBSERVE_TIMEOUT_S = 2.0
#: Batches that wait while others are handled: of each partition, and in total.
PREFETCHED_BATCHES_MAX = 1
WAITING_BATCHES_MAX = 1

_lag = Gauge("consumer_lag_records", "Records behind the end of the partition.", ["topic", "partition"])
_held_back = Gauge("consumer_held_back_records", "Records that a stopped partition holds back.", ["topic", "partition"])


class ConsumerLoop(ConsumerRebalanceListener):
    """Runs the subscriptions of one consumer group.

    `caught_up_at` holds when each partition was last seen handled to its end, by `clock`. Pass `DatabaseClock.now` if
    decisions depend on it.
    """

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
        self._batch_records_max = batch_records_max
        self._slots = asyncio.Semaphore(partitions_at_once)
        self._batches_max = partitions_at_once + WAITING_BATCHES_MAX
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._partitions: dict[TopicPartition, PartitionState] = {}
        self._is_running = False
        self._fetches: dict[asyncio.Task[None], frozenset[TopicPartition]] = {}
        self._committed: Mapping[TopicPartition, CommittedState] | None = None  # as read after the last assignment
        self._reading_committed = asyncio.Lock()
        self._offsets = OffsetCommits(consumer, group.service)
        self._processor = BatchProcessor(
            consumer,
            self._offsets,
            self._subscriptions,
            service=group.service,
            engine=engine,
            outbox=outbox,
            producer=producer,
            topic_prefix=topic_prefix,
        )
        self.caught_up_at: dict[tuple[TopicName, int], datetime] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Consumes until `stopping` is set, then finishes the batches in flight and leaves the group."""
        self._consumer.subscribe(list(self._subscriptions), listener=self)
        await self._start(stopping)
        if stopping.is_set():
            await stop_consumer(self._consumer)  # it may have joined; leaving spares the group the session time-out
            return
        self._is_running = True
        stop = asyncio.create_task(stopping.wait())
        try:
            while not stopping.is_set():
                await self._advance(stop)
            for fetch in self._fetches:
                fetch.cancel()
            self._assigned = frozenset()
            await self._wait_for_batches()
            self._remove_finished()
        finally:
            stop.cancel()
            self._is_running = False
            tasks = [*self._fetches, *self._running_tasks()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await stop_consumer(self._consumer)

    async def _advance(self, stop: asyncio.Task[Any]) -> None:
        """Resumes and fetches partitions, then waits until a fetch or a batch is done, at most `POLL_TIMEOUT_MS`."""
        self._resume_partitions()
        for partitions in self._next_fetches():
            self._fetches[asyncio.create_task(self._fetch(partitions))] = partitions
        await asyncio.wait(
            [stop, *self._fetches, *self._running_tasks()],
            return_when=asyncio.FIRST_COMPLETED,
            timeout=POLL_TIMEOUT_MS / 1000,
        )
        for fetch in [each for each in self._fetches if each.done()]:
            del self._fetches[fetch]
            fetch.result()
        self._remove_finished()

    def _next_fetches(self) -> Iterable[frozenset[TopicPartition]]:
        """Yields the partitions of each fetch to start.

        All partitions without a batch are fetched together. A partition with a batch is fetched alone, one batch ahead.
        If there is nothing to fetch, it yields a fetch of no partitions, because Kafka removes a member that does not
        poll. A pending fetch is cancelled only at shutdown: aiokafka would count the consumer as polling from then on.
        """
        batches = {partition: len(state.batches) for partition, state in self._partitions.items() if state.batches}
        if sum(batches.values()) >= self._batches_max and self._slots.locked():
            return
        free = self._assigned - self._consumer.paused() - frozenset[TopicPartition]().union(*self._fetches.values())
        if idle := free - batches.keys():
            yield idle
        for partition in free & batches.keys():
            if batches[partition] <= PREFETCHED_BATCHES_MAX:
                yield frozenset([partition])
        if not free and not batches and not self._fetches:
            yield frozenset()

    async def _fetch(self, partitions: Iterable[TopicPartition]) -> None:
        fetched = await self._consumer.getmany(
            *partitions, timeout_ms=POLL_TIMEOUT_MS, max_records=self._batch_records_max
        )
        for partition, records in fetched.items():
            if partition in self._assigned and records:
                state = self._partitions.setdefault(partition, PartitionState(partition))
                before = state.batches[-1].handling if state.batches else None
                handling = asyncio.create_task(self._handle(state, records, before, state.epoch))
                state.batches.append(Batch(records[0].offset, state.epoch, handling))

    def _running_tasks(self) -> Sequence[asyncio.Task[None]]:
        """The tasks that handle batches and commit their offsets."""
        batches = [batch.handling for state in self._partitions.values() for batch in state.batches]
        committing = self._offsets.in_progress
        return batches if committing is None else [*batches, committing]

    async def _wait_for_batches(self) -> None:
        """Waits for the batches in flight and the commits of their offsets."""
        while pending := [task for task in self._running_tasks() if not task.done()]:
            await asyncio.wait(pending)

    def _remove_finished(self) -> None:
        """Removes finished batches. Raises an unexpected error of a batch or of an offset commit."""
        for state in self._partitions.values():
            while state.batches and state.batches[0].handling.done():
                state.batches.popleft().handling.result()
        self._offsets.raise_error()

    async def _start(self, stopping: asyncio.Event) -> None:
        """Joins the group. Waits for Kafka for `START_TIMEOUT_S`: it may have gone away since the process checked."""
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while not stopping.is_set():
            try:
                await self._consumer.start()
                return
            except KafkaConnectionError as error:  # nothing was started, so `start` may be called again
                remaining_s = deadline - asyncio.get_running_loop().time()
                if remaining_s <= 0:
                    raise
                log.warning("waiting_for_kafka", remaining_s=round(remaining_s), error=str(error))
                await asyncio.sleep(START_RETRY_DELAY_S)

    async def problem(self) -> str | None:
        """For /readyz: why this consumer cannot work, or None."""
        if not self._is_running:
            return "has not joined its group yet"
        try:
            async with asyncio.timeout(OBSERVE_TIMEOUT_S):
                ends = await self._consumer.end_offsets(list(self._consumer.assignment()))
        except (TimeoutError, KafkaError) as error:
            return f"Kafka does not answer ({type(error).__name__})"
        stopped = sorted(
            f"{tp.topic}:{tp.partition} at offset {state.stop.offset}, "
            f"{max(0, ends.get(tp, 0) - state.stop.offset)} records held back"
            for tp, state in self._partitions.items()
            if state.stop is not None
        )
        return f"stopped for too much poison: {'; '.join(stopped)}" if stopped else None

    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]  # aiokafka awaits it
        self, revoked: Iterable[TopicPartition]
    ) -> None:
        """Waits until the batches in flight are handled and their offsets committed, so that the partition's next owner
        does not handle the same records. No batch starts until partitions are assigned again."""
        log.info("partitions_revoking")
        self._assigned = frozenset()
        await self._wait_for_batches()
        self._committed = None
        for partition in revoked:
            self._partitions.pop(partition, None)
            for gauge in (_lag, partition_stopped, _held_back):  # the partition's next owner sets them
                gauge.remove(partition.topic, partition.partition)
            self.caught_up_at.pop((self._topic_name(partition), partition.partition), None)

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, assigned: Iterable[TopicPartition]
    ) -> None:
        self._assigned = frozenset(assigned)
        log.info("partitions_assigned", partitions=sorted(f"{tp.topic}:{tp.partition}" for tp in assigned))

    async def observe(self) -> None:
        """Measures the lag, updates `caught_up_at`, and resumes stopped partitions whose bad records an operator has
        accepted for the dead letters."""
        if not self._is_running:
            return
        now = self._clock()
        try:
            async with asyncio.timeout(OBSERVE_TIMEOUT_S):
                handled_to = {partition: await self._position(partition) for partition in self._assigned}
                ends = await self._consumer.end_offsets([*handled_to]) if handled_to else {}
        except IllegalStateError:  # a partition has been assigned to another member
            return
        for partition, end in ends.items():
            if partition not in self._assigned:
                continue
            behind = max(0, end - handled_to[partition])
            _lag.labels(partition.topic, partition.partition).set(behind)
            state = self._partitions.get(partition)
            if state is not None and state.stop is not None:
                _held_back.labels(partition.topic, partition.partition).set(behind)
            if behind == 0:
                self.caught_up_at[self._topic_name(partition), partition.partition] = now
        await self._resume_accepted()

    async def _position(self, partition: TopicPartition) -> int:
        """The offset before which all records of the partition have been handled."""
        fetched_to = await self._consumer.position(partition)
        state = self._partitions.get(partition)
        unhandled = state.first_unhandled_offset() if state is not None else None
        return fetched_to if unhandled is None else unhandled

    async def _handle(
        self,
        state: PartitionState,
        raw: Sequence[ConsumerRecord[bytes | None, bytes | None]],
        before: asyncio.Task[None] | None,
        epoch: int,
    ) -> None:
        """Handles one batch once the previous one, `before`, is done, and schedules the commit of its offset.

        A batch is stale if its `epoch` is older than the partition's, or if the partition is no longer assigned. A
        stale batch is skipped; its records are fetched again.
        """
        if before is not None:
            await before
        async with self._slots:
            if state.partition not in self._assigned or state.epoch != epoch:
                return
            records = [Record.of(each) for each in raw]
            await fault_point(f"{self._group.service}.fetched")
            try:
                committed = state.committed = state.committed or await self._read_committed(state.partition)
            except (TimeoutError, KafkaError) as error:
                self._processor.back_off(state, records[0].offset, error)
                return
            end = await self._processor.process(state, committed, records)
        if end > records[0].offset or state.stop is not None:
            committed.stop = state.stop
            self._offsets.commit_soon(state.partition, end, committed)

    async def _read_committed(self, partition: TopicPartition) -> CommittedState:
        """The state that the group has committed for the partition.

        Only the owner of a partition writes its state, so one request reads it for all partitions of an assignment.
        """
        async with self._reading_committed:
            if self._committed is None:
                self._committed = await self._group.states()
            return self._committed.get(partition) or CommittedState()

    async def _resume_accepted(self) -> None:
        stopped = {partition: state for partition, state in self._partitions.items() if state.stop is not None}
        if not stopped:
            return
        accepted = await self._group.accepted()
        for partition, state in stopped.items():
            if state.committed is None or state.stop is None or accepted.get(partition, 0) <= state.stop.offset:
                continue
            log.info("poison_accepted", topic=partition.topic, partition=partition.partition, to=accepted[partition])
            state.committed.budget.accepted_to = accepted[partition]
            state.stop = None
            state.resume_at = asyncio.get_running_loop().time()
            if self._partitions.get(partition) is state:
                partition_stopped.labels(partition.topic, partition.partition).set(0)
                _held_back.labels(partition.topic, partition.partition).set(0)

    def _resume_partitions(self) -> None:
        now = asyncio.get_running_loop().time()
        for partition, state in self._partitions.items():
            if state.may_resume(now):
                state.resume_at = None
                if partition in self._consumer.assignment():
                    self._consumer.resume(partition)

    def _topic_name(self, partition: TopicPartition) -> TopicName:
        return self._subscriptions[partition.topic].topic
