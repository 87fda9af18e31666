"""The API and the worker as processes on real PostgreSQL and Kafka: events go in; responses and events come out."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer

from embedded.environment import (
    DEVELOPMENT_JWT_SECRET,
    DEVELOPMENT_SIGNING_KEY,
    SIMULATOR_PUBLISHABLE_KEY,
    SIMULATOR_SECRET_KEY,
    inherited,
)
from embedded.http_process import HttpProcess
from embedded.servers import KafkaServer
from embedded.testing import ServiceDatabase
from shared.clock import utc_now
from shared.events import (
    EXAMPLES,
    BillingProfile,
    CreditPackage,
    DomainEvent,
    EntryPosted,
    RechargeRequested,
    decode,
    encode,
)
from shared.kafka import make_producer
from shared.topic_admin import create_topics
from shared.topics import TopicName
from stripe_simulator.testing import RunningSimulator

WAIT_S = 30.0


@pytest.fixture
async def topic_prefix(kafka_server: KafkaServer) -> str:
    prefix = f"payments-{secrets.token_hex(4)}."
    await create_topics(kafka_server.bootstrap_servers, prefix)
    return prefix


@pytest.fixture
async def start(
    kafka_server: KafkaServer,
    topic_prefix: str,
    database: ServiceDatabase,
    stripe_account: RunningSimulator,
    log_dir: Path,
    tmp_path: Path,
) -> AsyncIterator[Callable[..., Any]]:
    """`await start("worker", VARIABLE="value")`: the process, once it is ready."""
    made: list[HttpProcess] = []

    async def run(command: str, **variables: str) -> HttpProcess:
        process = HttpProcess(
            f"payments-{command}",
            ["payments", command],
            log_file=log_dir / f"payments-{command}.log",
            cwd=tmp_path,
            env={
                **inherited(),
                **database.environment(),
                "HTTP_PORT": "{port}",
                "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
                "TOPIC_PREFIX": topic_prefix,
                "AUTH_JWT_SECRET": DEVELOPMENT_JWT_SECRET,
                "METADATA_SIGNING_KEYS": DEVELOPMENT_SIGNING_KEY,
                "STRIPE_SECRET_KEY": SIMULATOR_SECRET_KEY,
                "STRIPE_PUBLISHABLE_KEY": SIMULATOR_PUBLISHABLE_KEY,
                "STRIPE_API_BASE": stripe_account.url,
                **variables,
            },
        )
        made.append(process)
        await asyncio.to_thread(process.start)
        return process

    yield run
    for process in made:
        await asyncio.to_thread(process.close)


@pytest.fixture
async def published(kafka_server: KafkaServer, topic_prefix: str) -> AsyncIterator[Callable[..., Any]]:
    """`await published(BillingProfile, lambda profile: …)`: the first such event; fails after 30 s."""
    consumers: list[AIOKafkaConsumer] = []

    async def wait(kind: type[DomainEvent], matches: Callable[[Any], bool]) -> Any:
        consumer = AIOKafkaConsumer(
            topic_prefix + kind.TOPIC,
            bootstrap_servers=kafka_server.bootstrap_servers,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        consumers.append(consumer)
        await consumer.start()
        async with asyncio.timeout(WAIT_S):
            async for message in consumer:
                event = decode(message.value, kind)
                if event is not None and matches(event):
                    return event
        raise AssertionError("unreachable")

    yield wait
    for consumer in consumers:
        await consumer.stop()


async def test_a_purchase_with_a_saved_card_is_published(
    start: Callable[..., Any],
    published: Callable[..., Any],
    kafka_server: KafkaServer,
    topic_prefix: str,
    stripe_account: RunningSimulator,
    token_of: Callable[..., str],
    eventually: Callable[..., Any],
) -> None:
    app, _worker = await asyncio.gather(start("app"), start("worker"))
    assert (await published(CreditPackage, lambda each: each.package == "scale")).credits == 12000

    producer = make_producer(kafka_server.bootstrap_servers, "test")
    await producer.start()
    sent: set[str] = set()

    async def deliver() -> None:
        response = stripe_account.control.get(
            "/v1/events", params={"limit": 100}, headers={"Authorization": f"Bearer {SIMULATOR_SECRET_KEY}"}
        )
        for event in reversed(response.json()["data"]):
            if event["id"] not in sent:
                sent.add(event["id"])
                body = httpx.Request("POST", "http://x", json=event).content
                await producer.send_and_wait(topic_prefix + TopicName.STRIPE_EVENTS, body, key=event["id"].encode())

    headers = {"Authorization": f"Bearer {token_of('acme')}", "Idempotency-Key": "k1"}
    async with httpx.AsyncClient(base_url=app.url, headers=headers, timeout=30) as client:

        async def post(path: str, body: Any = None) -> Any:
            response = await client.post(path, json=body)
            assert response.is_success, response.text
            return response.json()

        setup = await post("/api/stripe/create-setup-intent")
        stripe_account.client().v1.setup_intents.confirm(setup["setupIntentId"], {"payment_method": "pm_card_visa"})
        await deliver()

        async def has_card() -> bool:
            listed = (await client.get("/api/stripe/payment-methods")).json()["paymentMethods"]
            return [card["isDefault"] for card in listed] == [True]

        await eventually(has_card)
        card = (await client.get("/api/stripe/payment-methods")).json()["paymentMethods"][0]["paymentMethodId"]
        bought = await post("/api/stripe/create-payment-intent", {"packageId": "starter"})
        await published(BillingProfile, lambda profile: profile.open_purchases == (bought["purchaseId"],))
        paid = await post(
            "/api/stripe/confirm-payment-intent", {"purchaseId": bought["purchaseId"], "paymentMethodId": card}
        )
        assert paid["status"] == "succeeded"
        await deliver()
        credited = EXAMPLES[EntryPosted].model_copy(
            update={"reference": paid["paymentIntentId"], "purchase": bought["purchaseId"]}
        )
        body = encode(credited, event_id="evt_1", now=utc_now())
        await producer.send_and_wait(topic_prefix + TopicName.ENTRY_POSTED, body, key=credited.key.encode())
        profile = await published(
            BillingProfile, lambda profile: profile.credited_in_version == 7 and not profile.open_purchases
        )
        assert (profile.default_payment_method, [each.usable for each in profile.cards]) == (card, [True])
        saved = await client.put(
            "/api/credits/auto-recharge",
            json={
                "enabled": True,
                "thresholdCredits": 500,
                "amountMinor": 5000,
                "currency": "usd",
                "monthlyCapMinor": 20000,
                "consent": {"textVersion": "2026-01"},
            },
        )
        assert saved.status_code == 200, saved.text
        triggered = await post("/api/credits/auto-recharge/trigger-now")
        request = await published(RechargeRequested, lambda each: each.request == triggered["requestId"])
        assert request.requested_by == "user-of-acme"
        profile = await published(BillingProfile, lambda profile: profile.auto_recharge is not None)
        assert profile.auto_recharge.consent.given_by == "user-of-acme"

        async def default_is_repaired() -> bool:
            customer = stripe_account.client().v1.customers.retrieve(profile.stripe_customer).to_dict()
            return customer["invoice_settings"]["default_payment_method"] == card

        await eventually(default_is_repaired)
    await producer.stop()


async def test_an_api_killed_after_its_call_to_stripe_continues_under_the_same_key(
    start: Callable[..., Any],
    stripe_account: RunningSimulator,
    token_of: Callable[..., str],
    tmp_path: Path,
) -> None:
    point, seen = "payments.payment_intent_created", tmp_path / "faults"
    app = await start("app", FAULT_POINTS=f"{point}=kill@1", FAULT_POINTS_LOG=str(seen))
    headers = {"Authorization": f"Bearer {token_of('acme')}", "Idempotency-Key": "k1"}
    async with httpx.AsyncClient(base_url=app.url, headers=headers, timeout=30) as client:
        with pytest.raises(httpx.TransportError):
            await client.post("/api/stripe/create-payment-intent", json={"packageId": "starter"})
        assert seen.read_text() == f"{point}\n"
        app.env.pop("FAULT_POINTS")
        await asyncio.to_thread(app.start)
        answers = [
            await client.post("/api/stripe/create-payment-intent", json={"packageId": "starter"}) for _ in range(2)
        ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert stripe_account.get("/books")["counts"]["payment_intents"] == {"requires_payment_method": 1}


@pytest.mark.parametrize("point", ["payments.handled", "payments.committed"])
async def test_a_worker_killed_around_its_commit_loses_and_repeats_nothing(
    start: Callable[..., Any],
    published: Callable[..., Any],
    kafka_server: KafkaServer,
    topic_prefix: str,
    rows: Callable[..., Any],
    eventually: Callable[..., Any],
    stripe_account: RunningSimulator,
    tmp_path: Path,
    point: str,
) -> None:
    stripe = stripe_account.client()
    customer = stripe.v1.customers.create().id
    card = stripe.v1.payment_methods.attach("pm_card_visa", {"customer": customer}).to_dict(for_json=True)
    await rows(f"WITH x AS (INSERT INTO customer SELECT 'acme', 1, '{{}}', '{customer}', now()) SELECT 1")
    await rows("WITH x AS (DELETE FROM outbox_mark) SELECT 1")
    seen = tmp_path / "faults"
    worker = await start("worker", FAULT_POINTS=f"{point}=kill@1", FAULT_POINTS_LOG=str(seen))
    envelope = {"id": "evt_1", "type": "payment_method.attached", "created": 1_790_000_000, "livemode": False}
    body = httpx.Request("POST", "http://x", json={**envelope, "data": {"object": card}}).content
    producer = make_producer(kafka_server.bootstrap_servers, "test")
    await producer.start()
    await producer.send_and_wait(topic_prefix + TopicName.STRIPE_EVENTS, body, key=customer.encode())
    await producer.stop()

    async def is_dead() -> bool:
        return not worker.is_running

    await eventually(is_dead)
    assert seen.read_text() == f"{point}\n"
    worker.env.pop("FAULT_POINTS")
    await asyncio.to_thread(worker.start)
    profile = await published(BillingProfile, lambda profile: profile.default_payment_method == card["id"])
    assert (profile.version, len(profile.cards)) == (1, 1)
    await eventually(lambda: _is_empty(rows))


async def _is_empty(rows: Callable[..., Any]) -> bool:
    return not await rows("SELECT 1 FROM outbox_mark UNION ALL SELECT 1 FROM outbox")


async def test_republish_publishes_every_profile_and_package(
    start: Callable[..., Any], published: Callable[..., Any], rows: Callable[..., Any], database: ServiceDatabase
) -> None:
    await rows("WITH x AS (INSERT INTO profile (tenant_id, version) VALUES ('acme', 7)) SELECT 1")
    await rows("WITH x AS (DELETE FROM outbox_mark) SELECT 1")
    await start("worker")
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "payments", "republish"), env={**inherited(), **database.environment()}
    )
    assert await done.wait() == 0
    assert (await published(BillingProfile, lambda profile: profile.tenant == "acme")).version == 7
    assert (await published(CreditPackage, lambda each: each.package == "growth")).credits == 5500
