"""Fixtures for every test of the tree: one PostgreSQL and one Kafka a session, started by the first test that asks.

Long tests run first, so that several processes (`pytest -n`) end at about the same time.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from xdist.scheduler import LoadFileScheduling

import shared  # noqa: F401  # else pytest takes the directory of shared/tests for the package
from embedded.http_process import HttpProcess
from embedded.paths import claim_log_dir
from embedded.servers import KafkaServer, PostgresServer
from embedded.simulator import make_simulator, send_webhooks_to
from embedded.testing import Backend, Databases, ServiceDatabase, running_backend
from shared.garbage import tune_garbage_collector

#: Tests that share the fixture `stack`, which is slow to start: in one process, before all others.
ON_ONE_STACK = (
    "tests/crashes/test_charging.py",
    "tests/crashes/test_fault_points.py",
    "tests/crashes/test_random_kills.py",
    "tests/flow/test_large_amounts.py",
    "tests/flow/test_load.py",
    "tests/flow/test_lost_events.py",
    "tests/flow/test_shuffled_webhooks.py",
)
#: The others that take more than ten seconds, longest first.
LONG = (
    "services/ledger/tests/test_openapi.py",
    "services/ledger/tests/test_state_machine.py",
    "tests/crashes/test_ledger_soak.py",
    "services/payments/tests/test_processes.py",
    "services/webhook-gateway/tests/test_outages.py",
    "services/recharge/tests/test_worker.py",
    "shared/tests/test_consumer.py",
    "shared/tests/test_consumer_poison.py",
    "services/ledger/tests/test_processes.py",
    "dev/tests/embedded/test_stack.py",
    "services/webhook-gateway/tests/test_backfill.py",
    "dev/tests/embedded/test_up_serves.py",
    "services/ledger/tests/test_reversals_on_postgresql.py",
    "services/ledger/tests/test_hot_queries.py",
    "services/ledger/tests/test_plan_properties.py",
    "dev/tests/embedded/test_crash_and_restart.py",
    "dev/tests/embedded/test_nothing_left_behind.py",
    "services/ledger/tests/test_api.py",
    "services/payments/tests/test_sweeper.py",
    "services/recharge/tests/test_attempt_machine.py",
    "services/recharge/tests/test_charging.py",
    "tests/crashes/test_credit_and_refund.py",
)
ORDER = {file: position for position, file in enumerate((*ON_ONE_STACK, *LONG))}


class Scheduling(LoadFileScheduling):
    """Gives whole files, in order, to whichever process is free. Files that share the stack count as one."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return ON_ONE_STACK[0] if file in ON_ONE_STACK else file


@pytest.hookimpl(optionalhook=True)  # unknown under `-p no:xdist`
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_configure() -> None:
    """Logs with plain tracebacks. By default structlog has rich render each with its variables, which takes seconds."""
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, plain])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.get(item.nodeid.partition("::")[0], len(ORDER)))


def pytest_collection_finish() -> None:
    """As the services do once they are loaded. The garbage collector took a tenth of Hypothesis's time."""
    tune_garbage_collector()


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
    """Kafka; topics are not created automatically."""
    return backend.kafka


@pytest.fixture(scope="session")
def databases(postgres_server: PostgresServer) -> Databases:
    """Makes migrated databases at any scope: `databases.create("ledger")`, `databases.drop(it)`."""
    return Databases(postgres_server)


@pytest.fixture
def database_of(databases: Databases) -> Iterator[Callable[[str], ServiceDatabase]]:
    """`database_of("ledger")`: a migrated database of that service for this test alone."""
    lent: list[tuple[str, ServiceDatabase]] = []

    def lend(service: str) -> ServiceDatabase:
        lent.append((service, databases.lend(service)))
        return lent[-1][1]

    yield lend
    for service, database in lent:
        databases.give_back(service, database)


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
