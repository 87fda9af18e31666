"""Publishes to Kafka and waits for the acknowledgement, with a limit on the time and on how many may wait."""

from aiokafka.errors import KafkaError

from shared.producer import Producer
from webhook_gateway import metrics
from webhook_gateway.core.records import EventRecord
from webhook_gateway.deadlines import Deadlines

#: How long a webhook waits for Kafka before Stripe is told to send it again. Stripe itself gives up after 10 s or more.
PUBLISH_TIMEOUT_S = 5.0
#: How many requests may wait for Kafka at once. Each holds a body of at most 1 MiB.
IN_FLIGHT_MAX = 512


class NotPublished(Exception):
    """Kafka has not acknowledged the event. Retryable. `code` is stable."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class EventPublisher:
    """Publishes to one topic."""

    def __init__(
        self,
        producer: Producer,
        topic: str,
        *,
        timeout_s: float = PUBLISH_TIMEOUT_S,
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._timeout_s = timeout_s
        self._in_flight_max = in_flight_max
        self.in_flight = 0
        self._deadlines = Deadlines()
        metrics.publishing.set_function(lambda: self.in_flight)

    async def publish(self, record: EventRecord) -> None:
        """Returns once all in-sync replicas have the record; raises `NotPublished`."""
        if self.in_flight >= self._in_flight_max:
            raise NotPublished("too_many_in_flight", "Too many events wait for Kafka. Send it again later.")
        self.in_flight += 1
        try:
            with self._deadlines.limit(self._timeout_s):
                await (await self._producer.send(self._topic, record.value, key=record.key, headers=record.headers))
        except TimeoutError:
            raise NotPublished(
                "kafka_unavailable", f"Kafka did not take the event within {self._timeout_s:g} s. Send it again later."
            ) from None
        except KafkaError as error:
            raise NotPublished(
                "kafka_unavailable", f"Kafka did not take the event ({type(error).__name__}). Send it again later."
            ) from error
        finally:
            self.in_flight -= 1
