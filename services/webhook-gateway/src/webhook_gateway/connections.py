"""What the backfill needs of Kafka and Stripe, in its process and as a command."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shared.kafka import make_producer
from shared.process import wait_for_kafka
from shared.producer import Producer
from shared.topics import TopicName
from webhook_gateway.publisher import EventPublisher
from webhook_gateway.settings import BackfillSettings
from webhook_gateway.stripe_gateway import StripeGateway, open_stripe_gateway


@dataclass(frozen=True, slots=True)
class Connections:
    """Open connections. `publisher` writes to `stripe.events` through `producer`."""

    producer: Producer
    publisher: EventPublisher
    stripe: StripeGateway


@asynccontextmanager
async def open_connections(settings: BackfillSettings) -> AsyncGenerator[Connections]:
    """Connects, and disconnects at the end. Raises `KafkaUnavailable` or `TopicsWrong`."""
    producer = Producer(lambda: make_producer(settings.kafka_bootstrap_servers, "webhook-gateway-backfill"))
    publisher = EventPublisher(producer, settings.topic_prefix + TopicName.STRIPE_EVENTS)
    try:
        await wait_for_kafka(
            producer, settings.kafka_bootstrap_servers, settings.topic_prefix, settings.start_timeout_s
        )
        async with open_stripe_gateway(settings) as stripe:
            yield Connections(producer, publisher, stripe)
    finally:
        await producer.stop()
