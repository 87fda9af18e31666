"""Fixtures for every test of the tree: one PostgreSQL and one Kafka a session, started by the first test that asks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedded.paths import build_dir
from embedded.servers import KafkaServer, PostgresServer
from embedded.testing import Backend, Databases, ServiceDatabase, running_backend


@pytest.fixture(scope="session")
def log_dir() -> Path:
    """Where the processes that tests start leave their logs."""
    return build_dir() / "logs" / "test"


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
