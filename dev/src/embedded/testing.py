"""What a test session needs: one PostgreSQL and one Kafka for all tests, and databases cloned in milliseconds.

`PREPAID_TEST_BACKEND` says where they run: `embedded` (default) or `testcontainers`.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from embedded.environment import database_urls, inherited, role_passwords
from embedded.kafka import Kafka
from embedded.paths import repository_root
from embedded.postgres import Postgres
from embedded.process import NotReady
from embedded.servers import KafkaServer, PostgresServer

INIT_SQL = repository_root() / "deploy" / "postgres" / "init.sql"
MIGRATION_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ServiceDatabase:
    """A migrated database of one service, alone in the hands of whoever asked for it."""

    name: str
    owner_url: str
    api_url: str
    worker_url: str
    superuser_url: str

    def environment(self) -> dict[str, str]:
        """The variables by which a service's process finds it."""
        return {
            "DATABASE_URL_OWNER": self.owner_url,
            "DATABASE_URL_API": self.api_url,
            "DATABASE_URL_WORKER": self.worker_url,
        }


class Databases:
    """Makes databases from templates: a service is migrated once a session, then its database is copied."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._templates: dict[str, str] = {}

    def create(self, service: str) -> ServiceDatabase:
        """A fresh, migrated database of the service (`ledger`, `payments`, `recharge`), with its three roles."""
        if service not in self._templates:
            self._templates[service] = self._migrate_template(service)
        name = f"{service}_{secrets.token_hex(6)}"
        # To copy files takes half as long as to log each of their pages, where nobody waits for the disk.
        self.server.execute(
            f"CREATE DATABASE {name} TEMPLATE {self._templates[service]} STRATEGY FILE_COPY OWNER {service}_owner"
        )
        self.server.execute(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC")  # a copy has rights of its own
        return self._described(service, name)

    def drop(self, database: ServiceDatabase) -> None:
        """Removes it, ending whatever is still connected."""
        self.server.execute(f"DROP DATABASE IF EXISTS {database.name} WITH (FORCE)")

    def _migrate_template(self, service: str) -> str:
        name = f"{service}_template_{secrets.token_hex(4)}"
        self.server.execute(f"CREATE DATABASE {name} OWNER {service}_owner")
        done = subprocess.run(
            [sys.executable, "-m", service, "migrate"],
            env={**inherited(), **database_urls(self.server, service, name)},
            capture_output=True,
            text=True,
            timeout=MIGRATION_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise NotReady(f"`python -m {service} migrate` failed:\n{done.stdout}{done.stderr}")
        return name

    def _described(self, service: str, name: str) -> ServiceDatabase:
        urls = database_urls(self.server, service, name)
        return ServiceDatabase(
            name,
            urls["DATABASE_URL_OWNER"],
            urls["DATABASE_URL_API"],
            urls["DATABASE_URL_WORKER"],
            self.server.url(name),
        )


@dataclass(frozen=True, slots=True)
class Backend:
    """The servers of a test session."""

    postgres: PostgresServer
    kafka: KafkaServer


@contextmanager
def running_backend(log_dir: Path, *, survives_the_machine: bool = False) -> Generator[Backend]:
    """Starts PostgreSQL (with the services' roles) and Kafka side by side; stops them at the end.

    What is measured rather than tested asks for a PostgreSQL that waits for the disk, as in production.
    """
    with ExitStack() as stack:
        if os.environ.get("PREPAID_TEST_BACKEND", "embedded") == "testcontainers":
            from embedded.containers import kafka_container, postgres_container

            # One after the other: testcontainers starts its reaper with the first, and only one at a time.
            postgres = stack.enter_context(postgres_container())
            kafka = stack.enter_context(kafka_container())
        else:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prepaid-test-")))
            # Each database that tests make or drop would wait for the disk, twice.
            own_postgres = Postgres(
                directory / "postgres", log_dir / "postgres.log", survives_the_machine=survives_the_machine
            )
            stack.enter_context(closing(own_postgres))
            own_kafka = stack.enter_context(closing(Kafka(directory / "kafka", log_dir / "kafka.log")))
            stack.callback(own_kafka.kill)  # an orderly end takes seconds, for data that nobody reads again
            with ThreadPoolExecutor(1) as pool:
                starting_postgres = pool.submit(own_postgres.start)
                kafka = own_kafka.start()
                postgres = starting_postgres.result()
        postgres.run_file(INIT_SQL, role_passwords())
        yield Backend(postgres, kafka)
