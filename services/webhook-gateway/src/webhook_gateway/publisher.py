"""To Kafka, with its acknowledgement, within a bounded time and a bounded number at once.

aiokafka keeps trying by itself while Kafka is away. Two things it does not get over: a sequence number that Kafka
refuses (every later batch of that partition is refused too) and a sender that has ended. Then a new producer takes its
place.
"""

import asyncio
from collections.abc import Callable

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from prometheus_client import Counter, Gauge

from shared.logs import get_logger
from webhook_gateway.deadlines import Deadlines
from webhook_gateway.records import EventRecord

log = get_logger()

#: How long a webhook waits for Kafka before Stripe is asked to come again. Stripe itself gives up after 10 s or more.
PUBLISH_TIMEOUT_S = 5.0
#: Requests that wait for Kafka at once; the bodies they hold are at most 1 MiB each.
IN_FLIGHT_MAX = 512
PRODUCER_START_TIMEOUT_S = 10.0
PRODUCER_STOP_TIMEOUT_S = 3.0

_in_flight = Gauge("gateway_publishing", "Events that wait for Kafka's acknowledgement now.")
_replaced = Counter("gateway_producer_replaced_total", "Producers given up because they would not recover.")


class NotPublished(Exception):
    """Kafka has not acknowledged the event; the same again may succeed. `code` is stable."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class EventPublisher:
    """Publishes to one topic. `make_producer` makes the first producer, and each that replaces a broken one."""

    def __init__(
        self,
        make_producer: Callable[[], AIOKafkaProducer],
        topic: str,
        *,
        timeout_s: float = PUBLISH_TIMEOUT_S,
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> None:
        self._make_producer = make_producer
        self._topic = topic
        self._timeout_s = timeout_s
        self._in_flight_max = in_flight_max
        self._replacing: asyncio.Task[None] | None = None
        self._is_stopped = False
        self.producer = make_producer()
        self.in_flight = 0
        self._deadlines = Deadlines()
        _in_flight.set_function(lambda: self.in_flight)

    async def publish(self, record: EventRecord) -> None:
        """Returns once all in-sync replicas have the record; raises `NotPublished`."""
        if self.in_flight >= self._in_flight_max:
            raise NotPublished("too_many_in_flight", "Too many events wait for Kafka. Send it again later.")
        self.in_flight += 1
        producer = self.producer
        try:
            with self._deadlines.limit(self._timeout_s):
                acknowledgement = await producer.send(self._topic, record.value, key=record.key, headers=record.headers)
                await acknowledgement
        except TimeoutError:
            raise NotPublished(
                "kafka_unavailable", f"Kafka did not take the event within {self._timeout_s:g} s. Send it again later."
            ) from None
        except KafkaError as error:
            if not (error.retriable or isinstance(error, MessageSizeTooLargeError)):
                self._replace(producer, error)
            raise NotPublished(
                "kafka_unavailable", f"Kafka did not take the event ({type(error).__name__}). Send it again later."
            ) from error
        finally:
            self.in_flight -= 1

    async def problem(self) -> str | None:
        """Why nothing can be published now, or None. For /readyz."""
        try:
            await self.producer.client.fetch_all_metadata()
        except KafkaError as error:
            return f"Kafka does not answer ({type(error).__name__})"
        return None

    async def stop(self) -> None:
        """Waits, bounded, for what is on its way, and closes the connections."""
        self._is_stopped = True
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait([self._replacing])
        await _stop(self.producer)

    def _replace(self, broken: AIOKafkaProducer, error: KafkaError) -> None:
        if broken is self.producer and not self._is_stopped and (self._replacing is None or self._replacing.done()):
            log.warning("producer_is_replaced", error=type(error).__name__)
            self._replacing = asyncio.create_task(self._start_another(broken))

    async def _start_another(self, broken: AIOKafkaProducer) -> None:
        fresh = self._make_producer()
        try:
            async with asyncio.timeout(PRODUCER_START_TIMEOUT_S):
                await fresh.start()
        except (KafkaError, OSError, TimeoutError) as error:  # the next failing event tries again
            log.warning("producer_not_replaced", error=type(error).__name__)
            await _stop(fresh)
            return
        except asyncio.CancelledError:
            await _stop(fresh)
            raise
        self.producer = fresh
        _replaced.inc()
        await _stop(broken)


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(PRODUCER_STOP_TIMEOUT_S):
            await producer.stop()
    except (KafkaError, TimeoutError) as error:
        log.warning("producer_not_stopped_cleanly", error=type(error).__name__)
