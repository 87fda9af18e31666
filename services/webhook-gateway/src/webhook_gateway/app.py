"""The API: webhooks go straight to their endpoint; health, metrics and documentation go through FastAPI."""

import asyncio

from shared.garbage import tune_garbage_collector
from shared.http import Readiness, create_http_app, serve
from shared.kafka import make_producer
from shared.logs import get_logger
from shared.process import wait_for_kafka
from shared.producer import Producer
from shared.topics import TopicName
from webhook_gateway.api.dispatcher import Dispatcher
from webhook_gateway.api.webhooks import PATH, WebhookEndpoint
from webhook_gateway.publisher import EventPublisher
from webhook_gateway.settings import AppSettings

log = get_logger()


async def run(settings: AppSettings, stopping: asyncio.Event) -> None:
    """Serves until `stopping`. Raises `KafkaUnavailable` or `TopicsWrong` if it cannot start."""
    producer = Producer(lambda: make_producer(settings.kafka_bootstrap_servers, "webhook-gateway"))
    publisher = EventPublisher(producer, settings.topic_prefix + TopicName.STRIPE_EVENTS)
    try:
        await wait_for_kafka(
            producer, settings.kafka_bootstrap_servers, settings.topic_prefix, settings.start_timeout_s
        )
        app = create_http_app(
            "Prepaid webhook gateway",
            description=f"Takes Stripe's webhooks at `POST {PATH}` and publishes them to Kafka.",
            readiness=Readiness({"kafka": producer.problem}),
        )
        endpoint = WebhookEndpoint(publisher, secrets=settings.webhook_secrets, livemode=settings.stripe_livemode)
        tune_garbage_collector()
        log.info("serving", path=PATH, port=settings.http_port, livemode=settings.stripe_livemode)
        await serve(Dispatcher(endpoint, app), settings, stopping)
    finally:
        await producer.stop()
