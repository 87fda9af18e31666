"""A migrated ledger for each test, and its API without a network."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import httpx
import pytest
from pydantic import SecretStr

from embedded.environment import DEVELOPMENT_JWT_SECRET
from embedded.testing import ServiceDatabase
from ledger.app import create_app
from ledger.repository.balance_state import BALANCE_STATE
from shared.auth import Authenticator, Scope, mint_development_token
from shared.clock import DatabaseClock, utc_now
from shared.database import make_engine
from shared.http import Readiness
from shared.kafka import make_producer
from shared.outbox import Outbox
from shared.outbox_publisher import OutboxPublisher
from shared.producer import Producer
from shared.runtime import Runtime
from shared.settings import AuthSettings

from .books import Books

#: Makes an `Authorization` header: `token("acme", Scope.BILLING_READ)`.
MakeHeaders = Callable[..., dict[str, str]]


@pytest.fixture
async def books(database_of: Callable[[str], ServiceDatabase]) -> AsyncIterator[Books]:
    """An empty ledger."""
    database = database_of("ledger")
    engine = make_engine(database.worker_url, application_name="ledger-test", pool_size=6)
    yield Books(database, engine)
    await engine.dispose()


@pytest.fixture
async def api(books: Books) -> AsyncIterator[httpx.AsyncClient]:
    """The API on the books, called in this process. What it publishes waits in the outbox."""
    producer = Producer(lambda: make_producer("127.0.0.1:1", "ledger-test"))  # not started: nothing is sent here
    publisher = OutboxPublisher(books.engine, producer, service="ledger", topic_prefix="", states=[BALANCE_STATE])
    runtime = Runtime(
        "ledger", books.engine, producer, Outbox(publisher), publisher, Readiness(), DatabaseClock(books.engine)
    )
    api_engine = make_engine(books.database.api_url, application_name="ledger-test-api", pool_size=3)
    settings = AuthSettings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        auth_jwt_secret=SecretStr(DEVELOPMENT_JWT_SECRET),
    )
    app = create_app(runtime, api_engine, Authenticator(settings))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://ledger", timeout=20) as client:
        yield client
    await producer.stop()
    await api_engine.dispose()


@pytest.fixture
def headers() -> MakeHeaders:
    """Makes `Authorization` headers of a development token."""

    def make(tenant: str | None, *scopes: Scope) -> dict[str, str]:
        expires_at = int((utc_now() + timedelta(minutes=10)).timestamp())
        token = mint_development_token(
            DEVELOPMENT_JWT_SECRET, subject="test", tenant=tenant, scopes=scopes, expires_at=expires_at
        )
        return {"Authorization": f"Bearer {token}"}

    return make
