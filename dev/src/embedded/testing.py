"""What a test session needs: one PostgreSQL and one Kafka for all tests, and databases that are emptied and reused.

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

from pydantic import SecretStr

from embedded.environment import SIMULATOR_SECRET_KEY, database_urls, inherited, role_passwords
from embedded.kafka import Kafka
from embedded.paths import repository_root
from embedded.postgres import Postgres
from embedded.process import NotReady
from embedded.servers import KafkaServer, PostgresServer
from shared.settings import StripeSettings

INIT_SQL = repository_root() / "deploy" / "postgres" / "init.sql"
MIGRATION_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ServiceDatabase:
    """A migrated database of one service, for one test at a time."""

    name: str
    owner_url: str
    api_url: str
    worker_url: str
    superuser_url: str

    def environment(self) -> dict[str, str]:
        """The variables with which a service's process connects to it."""
        return {
            "DATABASE_URL_OWNER": self.owner_url,
            "DATABASE_URL_API": self.api_url,
            "DATABASE_URL_WORKER": self.worker_url,
        }


def stripe_settings(api_base: str, secret_key: str = SIMULATOR_SECRET_KEY) -> StripeSettings:
    """A service's settings for Stripe at this address."""
    return StripeSettings(
        _env_file=None,  # pyright: ignore[reportCallIssue]
        stripe_secret_key=SecretStr(secret_key),
        stripe_api_base=api_base,
    )


#: Ends every other session, empties every table, and resets sequences and statistics. A table without rows is skipped:
#: truncating it takes as long as creating it.
_EMPTY = """
    SET client_min_messages = warning;
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
    DO $$
    DECLARE each regclass; has_rows boolean; filled text[];
    BEGIN
        FOR each IN SELECT oid FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
        LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM %s)', each) INTO has_rows;
            IF has_rows THEN filled := filled || each::text; END IF;
        END LOOP;
        IF filled IS NOT NULL THEN EXECUTE 'TRUNCATE ' || array_to_string(filled, ', ') || ' CASCADE'; END IF;
        PERFORM setval(seqrelid::regclass, seqstart, false) FROM pg_sequence;
        PERFORM pg_stat_reset();
    END $$
"""

_TABLES = """
    SELECT oid::regclass FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
"""

#: A hash of everything that a test can change in a database and `_EMPTY` does not restore.
_FINGERPRINT = """
    SELECT md5(string_agg(part, ';' ORDER BY part)) FROM (
        SELECT concat_ws(' ', 'class', oid::regclass, relkind, relowner, relrowsecurity, relforcerowsecurity, relacl,
                         reloptions) FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT concat_ws(' ', 'column', attrelid::regclass, attname, atttypid, attnotnull, attidentity, attacl,
                         attisdropped, pg_get_expr(adbin, adrelid))
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = 'public'::regnamespace AND attnum > 0
        UNION ALL
        SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        UNION ALL
        SELECT concat_ws(' ', 'index', pg_get_indexdef(indexrelid), indisvalid) FROM pg_index
        JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT concat_ws(' ', 'policy', pg_policies) FROM pg_policies
        UNION ALL
        SELECT concat_ws(' ', 'trigger', pg_get_triggerdef(oid), tgenabled) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL
        SELECT concat_ws(' ', 'function', pg_get_functiondef(oid), proowner, proacl) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND prokind IN ('f', 'p')
        UNION ALL
        SELECT concat_ws(' ', 'view', viewname, definition) FROM pg_views WHERE schemaname = 'public'
        UNION ALL
        SELECT concat_ws(' ', 'database', datdba, datacl, (SELECT array_agg(setconfig) FROM pg_db_role_setting
                                                           WHERE setdatabase = pg_database.oid))
        FROM pg_database WHERE datname = current_database()
        UNION ALL
        SELECT concat_ws(' ', 'schema', nspname, nspowner, nspacl) FROM pg_namespace WHERE nspname !~ '^pg_'
        UNION ALL
        SELECT concat_ws(' ', 'extension', extname, extversion) FROM pg_extension
        UNION ALL
        SELECT concat_ws(' ', 'version', version_num) FROM alembic_version
    ) AS found (part)
"""


class Databases:
    """Makes databases from templates: a service is migrated once a session, then its database is copied.

    Copying one takes a third of a second and emptying one a twentieth, so databases that are given back are reused.
    """

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._templates: dict[str, str] = {}
        self._fingerprints: dict[str, str] = {}
        self._rows: dict[str, str] = {}
        self._idle: dict[str, list[ServiceDatabase]] = {}

    def lend(self, service: str) -> ServiceDatabase:
        """As `create`, but possibly a reused one; to be given back."""
        idle = self._idle.setdefault(service, [])
        if idle:
            return idle.pop()
        made = self.create(service)
        if service not in self._fingerprints:
            self._fingerprints[service] = self.server.execute(_FINGERPRINT, made.name)
            self._rows[service] = self._inserts(made)
        return made

    def give_back(self, service: str, database: ServiceDatabase) -> None:
        """Restores its first rows, for the next test. If anything else has changed, it is dropped."""
        restore = f"{_EMPTY}; {self._rows[service]}; {_FINGERPRINT}"
        if self.server.execute(restore, database.name).endswith(self._fingerprints[service]):
            self._idle[service].append(database)
        else:
            self.drop(database)

    def create(self, service: str) -> ServiceDatabase:
        """A fresh, migrated database of the service (`ledger`, `payments`, `recharge`), with its three roles."""
        if service not in self._templates:
            self._templates[service] = self._migrate_template(service)
        name = f"{service}_{secrets.token_hex(6)}"
        # Copying files takes half as long as logging each of their pages, where PostgreSQL does not wait for the disk.
        self.server.execute(
            f"CREATE DATABASE {name} TEMPLATE {self._templates[service]} STRATEGY FILE_COPY OWNER {service}_owner"
        )
        self.server.execute(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC")  # a copy has rights of its own
        return self._described(service, name)

    def drop(self, database: ServiceDatabase) -> None:
        """Removes it, ending whatever is still connected."""
        self.server.execute(f"DROP DATABASE IF EXISTS {database.name} WITH (FORCE)")

    def _inserts(self, database: ServiceDatabase) -> str:
        """Statements that write the database's rows."""
        tables = self.server.execute(_TABLES, database.name).split()
        statements = " UNION ALL ".join(
            f"SELECT format('INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, %L)',"
            f" jsonb_agg({table})) FROM {table} HAVING count(*) > 0"
            for table in tables
        )
        return "; ".join(self.server.execute(statements, database.name).splitlines())

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

    `survives_the_machine`: PostgreSQL waits for the disk, as in production. Benchmarks need that.
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
