"""The service in one process, on a real database and a simulated Stripe over HTTP. Only the clock is a fake."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.environment import DEVELOPMENT_JWT_SECRET, DEVELOPMENT_SIGNING_KEY
from embedded.testing import ServiceDatabase, stripe_settings
from payments.api.dependencies import Dependencies
from payments.app import create_app
from payments.handlers import StripeEventHandler, handle_attempts, handle_balances, handle_entries
from payments.jobs.sweeper import Sweeper
from payments.repository.published_states import PUBLISHED_STATES
from payments.stripe_gateway import StripeGateway, open_stripe_gateway
from payments.workflows.context import WorkflowContext
from shared.auth import Authenticator, Scope, mint_development_token
from shared.clock import utc_now
from shared.database import make_engine
from shared.events import AttemptChanged, BalanceChanged, DomainEvent, EntryPosted, encode
from shared.http import Readiness
from shared.ids import new_id
from shared.kafka import Record
from shared.outbox import Outbox
from shared.outbox_publisher import OutboxPublisher
from shared.settings import AuthSettings
from shared.stripe_events import EVENT_TYPES
from stripe_simulator.testing import RunningSimulator, run_simulator

WAIT_S = 30.0
BOTH = (Scope.BILLING_READ, Scope.BILLING_WRITE)


@dataclass
class MovableClock:
    """The real time, plus what a test adds to it."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead

    def advance(self, **by: float) -> None:
        self.ahead += timedelta(**by)


@pytest.fixture(scope="session")
def running_stripe() -> Iterator[RunningSimulator]:
    with run_simulator() as simulator:
        yield simulator


@pytest.fixture
def stripe_account(running_stripe: RunningSimulator) -> RunningSimulator:
    """An empty Stripe account."""
    running_stripe.post("/reset")
    return running_stripe


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def database(database_of: Callable[[str], ServiceDatabase]) -> ServiceDatabase:
    return database_of("payments")


@pytest.fixture
async def api_engine(database: ServiceDatabase) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(database.api_url, application_name="test-api")
    yield engine
    await engine.dispose()


@pytest.fixture
async def worker_engine(database: ServiceDatabase) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(database.worker_url, application_name="test-worker")
    yield engine
    await engine.dispose()


@pytest.fixture
async def gateway(stripe_account: RunningSimulator) -> AsyncIterator[StripeGateway]:
    async with open_stripe_gateway(stripe_settings(stripe_account.url, "sk_test_simulator")) as opened:
        yield opened


@pytest.fixture
async def outbox(worker_engine: AsyncEngine) -> Outbox:
    """Writes its tables and publishes nothing, so that a test can read what would be published."""
    producer = AIOKafkaProducer(bootstrap_servers="127.0.0.1:9")
    return Outbox(
        OutboxPublisher(worker_engine, producer, service="payments", topic_prefix="", states=PUBLISHED_STATES)
    )


@pytest.fixture
def sweeper(worker_engine: AsyncEngine, outbox: Outbox, gateway: StripeGateway, clock: MovableClock) -> Sweeper:
    return Sweeper(WorkflowContext(worker_engine, outbox, gateway, clock))


@pytest.fixture
async def http(
    api_engine: AsyncEngine, outbox: Outbox, gateway: StripeGateway, clock: MovableClock
) -> AsyncIterator[httpx.AsyncClient]:
    """The API, without credentials."""
    dependencies = Dependencies(
        workflows=WorkflowContext(api_engine, outbox, gateway, clock),
        metadata_signing_key=DEVELOPMENT_SIGNING_KEY,
        stripe_publishable_key="pk_test_simulator",
        ledger_url="",
        recharge_url="",
    )
    app = create_app(dependencies, Authenticator(AuthSettings(auth_jwt_secret=DEVELOPMENT_JWT_SECRET)), Readiness())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://payments", timeout=60) as client:
        yield client


def token(tenant: str | None, scopes: tuple[Scope, ...] = BOTH, *, expires_in_s: int = 600) -> str:
    return mint_development_token(
        DEVELOPMENT_JWT_SECRET,
        subject=f"user-of-{tenant}",
        tenant=tenant,
        scopes=scopes,
        expires_at=int(time.time()) + expires_in_s,
    )


@pytest.fixture
def token_of() -> Callable[..., str]:
    """`token_of(tenant, scopes, expires_in_s=…)`."""
    return token


@pytest.fixture
def call(http: httpx.AsyncClient) -> Callable[..., Any]:
    """`await call("acme", "POST", path, {…}, key="k1")` as a user of the tenant; returns the response."""

    async def request(
        tenant: str, method: str, path: str, body: Any = None, *, key: str | None = None
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token(tenant)}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        return await http.request(method, path, json=body, headers=headers)

    return request


@pytest.fixture
def buy(call: Callable[..., Any]) -> Callable[..., Any]:
    """`await buy("acme", packageId="starter")`: the created, unconfirmed purchase. Each call has its own key."""

    async def create(tenant: str, *, key: str | None = None, **body: Any) -> dict[str, Any]:
        response = await call(tenant, "POST", "/api/stripe/create-payment-intent", body, key=key or new_id("key"))
        assert response.status_code == 200, response.text
        return response.json()

    return create


@pytest.fixture
def rows(database: ServiceDatabase) -> Callable[..., Any]:
    """`await rows("SELECT …", tenant="acme")` as the superuser."""

    async def read(sql: str, **parameters: Any) -> Sequence[Any]:
        engine = make_engine(database.superuser_url, application_name="test", pool_size=1)
        try:
            async with engine.begin() as connection:
                return (await connection.execute(text(sql), parameters)).all()
        finally:
            await engine.dispose()

    return read


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """`await eventually(check)`: returns once `await check()` is true; fails after 30 s."""

    async def wait(check: Callable[[], Awaitable[Any]]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not await check():
            assert time.monotonic() < deadline, f"not within {WAIT_S} s"
            await asyncio.sleep(0.02)

    return wait


def record(topic: str, value: bytes) -> Record:
    return Record(topic=topic, partition=0, offset=0, key=None, value=value)


@pytest.fixture
def deliver(worker_engine: AsyncEngine, outbox: Outbox, clock: MovableClock) -> Callable[..., Any]:
    """`await deliver([{…}, …])`: handles these events of Stripe as a batch of `stripe.events`, in one transaction."""
    handler = StripeEventHandler([DEVELOPMENT_SIGNING_KEY], clock)

    async def handle(events: Sequence[dict[str, Any]]) -> None:
        async with outbox.transaction(worker_engine) as transaction:
            await handler.handle(transaction, [record("stripe.events", json.dumps(each).encode()) for each in events])

    return handle


@pytest.fixture
def stripe_events(stripe_account: RunningSimulator) -> Callable[[], list[dict[str, Any]]]:
    """All events that Stripe would have sent so far, oldest first."""

    def listed() -> list[dict[str, Any]]:
        response = stripe_account.control.get(
            "/v1/events", params={"limit": 100}, headers={"Authorization": "Bearer sk_test_simulator"}
        ).raise_for_status()
        return [event for event in reversed(response.json()["data"]) if event["type"] in EVENT_TYPES]

    return listed


@pytest.fixture
def consume(worker_engine: AsyncEngine, outbox: Outbox) -> Callable[..., Any]:
    """`await consume(BalanceChanged(…), …)`: handles events of other services, in one transaction per type."""
    handlers = {EntryPosted: handle_entries, BalanceChanged: handle_balances, AttemptChanged: handle_attempts}

    async def handle(*events: DomainEvent) -> None:
        for kind, handler in handlers.items():
            records = [
                record(kind.TOPIC, encode(each, event_id=new_id("evt"), now=utc_now()))
                for each in events
                if isinstance(each, kind)
            ]
            if records:
                async with outbox.transaction(worker_engine) as transaction:
                    await handler(transaction, records)

    return handle


@pytest.fixture
def save_card(
    call: Callable[..., Any],
    deliver: Callable[..., Any],
    stripe_account: RunningSimulator,
    stripe_events: Callable[[], list[dict[str, Any]]],
) -> Callable[..., Any]:
    """`await save_card("acme", "pm_card_visa")`: saves it as a browser does, delivers its events, returns its id."""

    async def save(tenant: str, card: str = "pm_card_visa") -> str:
        created = await call(tenant, "POST", "/api/stripe/create-setup-intent")
        assert created.status_code == 200, created.text
        client = stripe_account.client()
        setup_intent: str = created.json()["setupIntentId"]
        confirmed = client.v1.setup_intents.confirm(setup_intent, {"payment_method": card})
        if confirmed.status == "requires_action":
            stripe_account.post(f"/setup_intents/{setup_intent}/authenticate")
        await deliver(stripe_events())
        return str(confirmed.payment_method)

    return save
