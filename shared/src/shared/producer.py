"""A Kafka producer that is replaced when it breaks.

aiokafka's producer retries while Kafka is unavailable. It does not recover from two failures: after Kafka has refused a
sequence number it refuses all later batches of that partition too, and a sender task that has ended is not restarted.
Then a new producer replaces the broken one. Callers see the error and send again, as after any other error.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from prometheus_client import Counter

from shared.logs import get_logger

log = get_logger()

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 3.0

_replaced = Counter("producer_replaced_total", "Kafka producers given up because they would not recover.")


class Sender(Protocol):
    """The part of a producer that publishing needs: a `Producer` or an `AIOKafkaProducer`."""

    async def send(
        self, topic: str, value: bytes | None, *, key: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> asyncio.Future[Any]: ...


class Producer:
    """Sends like `AIOKafkaProducer`. `make` creates the first producer and each one that replaces a broken one."""

    def __init__(self, make: Callable[[], AIOKafkaProducer]) -> None:
        self._make = make
        self._current = make()
        self._replacing: asyncio.Task[None] | None = None
        self._is_stopped = False

    async def start(self) -> None:
        """Connects. Raises a `KafkaError` if no broker answers; it may then be called again."""
        await self._current.start()

    async def send(
        self, topic: str, value: bytes | None, *, key: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> asyncio.Future[Any]:
        """Queues a record. The returned future has Kafka's acknowledgement or a `KafkaError` as its result."""
        producer = self._current
        try:
            acknowledgement = await producer.send(topic, value, key=key, headers=headers)
        except KafkaError as error:
            self._replace_if_broken(producer, error)
            raise
        acknowledgement.add_done_callback(partial(self._check_acknowledgement, producer))
        return acknowledgement

    async def problem(self) -> str | None:
        """For /readyz: why nothing can be published now, or None."""
        try:
            await self._current.client.fetch_all_metadata()
        except KafkaError as error:
            return f"Kafka does not answer ({type(error).__name__})"
        return None

    async def stop(self) -> None:
        """Waits at most `STOP_TIMEOUT_S` for records in flight, and closes the connections."""
        self._is_stopped = True
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait([self._replacing])
        await _stop(self._current)

    def _check_acknowledgement(self, producer: AIOKafkaProducer, done: asyncio.Future[Any]) -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, KafkaError):
            self._replace_if_broken(producer, error)

    def _replace_if_broken(self, producer: AIOKafkaProducer, error: KafkaError) -> None:
        is_recoverable = error.retriable or isinstance(error, MessageSizeTooLargeError)
        is_replacing = self._replacing is not None and not self._replacing.done()
        if is_recoverable or is_replacing or self._is_stopped or producer is not self._current:
            return
        log.warning("producer_is_replaced", error=type(error).__name__)
        self._replacing = asyncio.create_task(self._replace(producer))

    async def _replace(self, broken: AIOKafkaProducer) -> None:
        fresh = self._make()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await fresh.start()
        except (KafkaError, OSError, TimeoutError) as error:  # the next error of this kind tries again
            log.warning("producer_not_replaced", error=type(error).__name__)
            await _stop(fresh)
            return
        except asyncio.CancelledError:
            await _stop(fresh)
            raise
        self._current = fresh
        _replaced.inc()
        await _stop(broken)


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await producer.stop()
    except (KafkaError, TimeoutError) as error:
        log.warning("producer_not_stopped_cleanly", error=type(error).__name__)
