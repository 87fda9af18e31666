"""Fixtures for every test of the tree: one PostgreSQL and one Kafka a session, started by the first test that asks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shared  # noqa: F401  # else pytest takes the directory of shared/tests for the package
from embedded.http_process import HttpProcess
from embedded.paths import claim_log_dir
from embedded.servers import KafkaServer, PostgresServer
from embedded.simulator import make_simulator, send_webhooks_to
from embedded.testing import Backend, Databases, ServiceDatabase, running_backend


@pytest.fixture(scope="session")
def log_dir() -> Iterator[Path]:
    """Where the processes that tests start leave their logs: `build/logs/test`."""
    claimed = claim_log_dir("test")
    yield claimed.path
    claimed.close()


@pytest.fixture(scope="session")
def backend(log_dir: Path) -> Iterator[Backend]:
    """PostgreSQL and Kafka, embedded or in containers (`PREPAID_TEST_BACKEND`)."""
    with running_backend(log_dir) as started:
        yield started


@pytest.fixture(scope="session")
def postgres_server(backend: Backend) -> PostgresServer:
    """PostgreSQL with the services' roles; `url(database)` is the superuser's."""
    return backend.postgres


@pytest.fixture(scope="session")
def kafka_server(backend: Backend) -> KafkaServer:
    """Kafka; topics are not made by themselves."""
    return backend.kafka


@pytest.fixture(scope="session")
def databases(postgres_server: PostgresServer) -> Databases:
    """Makes migrated databases at any scope: `databases.create("ledger")`, `databases.drop(it)`."""
    return Databases(postgres_server)


@pytest.fixture
def database_of(databases: Databases) -> Iterator[Callable[[str], ServiceDatabase]]:
    """`database_of("ledger")`: a migrated database of that service for this test alone."""
    made: list[ServiceDatabase] = []

    def create(service: str) -> ServiceDatabase:
        made.append(databases.create(service))
        return made[-1]

    yield create
    for database in made:
        databases.drop(database)


@pytest.fixture
def simulator(log_dir: Path, tmp_path: Path) -> Iterator[Callable[..., HttpProcess]]:
    """`simulator(webhook_url)`: a Stripe of this test alone, running; `.url` is its address."""
    made: list[HttpProcess] = []

    def start(webhook_url: str | None = None) -> HttpProcess:
        made.append(make_simulator(log_dir / "stripe-simulator.log", tmp_path))
        if webhook_url is not None:
            send_webhooks_to(made[-1], webhook_url)
        made[-1].start()
        return made[-1]

    yield start
    for process in made:
        process.close()
