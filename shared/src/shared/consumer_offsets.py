"""Commits a consumer's offsets in the background, each with what the group remembers of its partition."""

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.faults import fault_point
from shared.logs import get_logger
from shared.poison import CommittedState

log = get_logger()


class OffsetCommits:
    """The offsets that one consumer has to commit. A commit that fails is left: the records come again, and handlers
    are idempotent."""

    def __init__(self, consumer: AIOKafkaConsumer, service: str) -> None:
        self._consumer = consumer
        self._service = service
        self._waiting: dict[TopicPartition, tuple[int, str]] = {}
        self._committing: asyncio.Task[None] | None = None

    @property
    def in_progress(self) -> asyncio.Task[None] | None:
        """The commit that has been begun, if there is one."""
        return self._committing

    def commit_soon(self, partition: TopicPartition, offset: int, state: CommittedState) -> None:
        """Has the offset committed in the background, together with others of the same moment."""
        self._waiting[partition] = offset, state.to_metadata()
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_waiting())

    async def commit(self, partition: TopicPartition, offset: int, state: CommittedState) -> None:
        """Commits the offset and waits for it. Raises a `KafkaError`, also where the partition is another member's by
        now."""
        self._waiting.pop(partition, None)  # older; what is being committed comes before this
        await self._consumer.commit({partition: (offset, state.to_metadata())})

    def raise_error(self) -> None:
        """Raises what ended a commit in the background and should not have."""
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
