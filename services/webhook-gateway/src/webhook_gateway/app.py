"""HTTP door: webhooks on the short way, everything else (health, metrics, documentation) through FastAPI."""

import asyncio
from typing import Any

from shared.garbage import tune_garbage_collector
from shared.http import Readiness, create_http_app, serve
from shared.kafka import make_producer
from shared.logs import get_logger
from shared.process import wait_for_kafka
from shared.producer import Producer
from shared.topics import TopicName
from webhook_gateway.publisher import EventPublisher
from webhook_gateway.settings import AppSettings
from webhook_gateway.webhooks import PATH, WebhookEndpoint

log = get_logger()


class Dispatcher:
    """Sends webhooks to their endpoint before any middleware or routing of the app, which would halve their speed."""

    def __init__(self, webhooks: WebhookEndpoint, app: Any) -> None:
        self._webhooks = webhooks
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == PATH:
            await self._webhooks(scope, receive, send)
        else:
            await self._app(scope, receive, send)


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
