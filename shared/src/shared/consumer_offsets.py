"""Commits a consumer's offsets in the background, each with the partition's `CommittedState` as its metadata."""

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.faults import fault_point
from shared.logs import get_logger
from shared.poison import CommittedState

log = get_logger()


class OffsetCommits:
    """The offset commits of one consumer. A failed background commit is not retried: the records are delivered again,
    and handlers are idempotent."""

    def __init__(self, consumer: AIOKafkaConsumer, service: str) -> None:
        self._consumer = consumer
        self._service = service
        self._waiting: dict[TopicPartition, tuple[int, str]] = {}
        self._committing: asyncio.Task[None] | None = None

    @property
    def in_progress(self) -> asyncio.Task[None] | None:
        """The background commit that is running, if any."""
        return self._committing

    def commit_soon(self, partition: TopicPartition, offset: int, state: CommittedState) -> None:
        """Schedules the commit of an offset. Offsets that wait at the same time are committed in one request."""
        self._waiting[partition] = offset, state.to_metadata()
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_waiting())

    async def commit(self, partition: TopicPartition, offset: int, state: CommittedState) -> None:
        """Commits the offset and waits for the result. Raises a `KafkaError`, also if another member owns the partition
        now."""
        # An older offset that waits is superseded. A commit that is running is sent before this one.
        self._waiting.pop(partition, None)
        await self._consumer.commit({partition: (offset, state.to_metadata())})

    def raise_error(self) -> None:
        """Raises the unexpected error of a background commit, if there was one."""
        if self._committing is not None and self._committing.done():
            committing, self._committing = self._committing, None
            committing.result()

    async def _commit_waiting(self) -> None:
        while self._waiting:
            offsets, self._waiting = self._waiting, {}
            try:
                await self._consumer.commit(offsets)
            except KafkaError as error:
                log.warning("offsets_not_committed", error=type(error).__name__)
            await fault_point(f"{self._service}.offsets_committed")
