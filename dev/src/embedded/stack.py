"""The whole product on this machine: PostgreSQL, Kafka, the Stripe simulator, and every service process."""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from embedded.environment import (
    SERVICES_WITH_DATABASE,
    ServiceEnvironment,
    StripeAccess,
    role_passwords,
)
from embedded.http_process import HttpProcess
from embedded.kafka import Kafka
from embedded.paths import ClaimedDirectory, claim_log_dir, repository_root
from embedded.postgres import Postgres
from embedded.process import Command, run_to_end, this_python
from embedded.servers import KafkaServer, PostgresServer
from embedded.side_by_side import side_by_side
from embedded.simulator import make_simulator, send_webhooks_to

INIT_SQL = repository_root() / "deploy" / "postgres" / "init.sql"
ONE_OFF_TIMEOUT_S = 60.0
WELL_KNOWN_SIMULATOR_PORT = 12111


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """One process of a service: `python -m <service> <command>`."""

    service: str
    command: str
    well_known_port: int | None = None

    @property
    def name(self) -> str:
        return f"{self.service.replace('_', '-')}-{self.command}"


GATEWAY_APP = ServiceProcess("webhook_gateway", "app", 3000)
GATEWAY_BACKFILL = ServiceProcess("webhook_gateway", "backfill")
PAYMENTS_APP = ServiceProcess("payments", "app", 8000)
PAYMENTS_WORKER = ServiceProcess("payments", "worker")
LEDGER_APP = ServiceProcess("ledger", "app", 8001)
LEDGER_WORKER = ServiceProcess("ledger", "worker")
RECHARGE_APP = ServiceProcess("recharge", "app", 8002)
RECHARGE_WORKER = ServiceProcess("recharge", "worker")
ALL_PROCESSES = (
    *(GATEWAY_APP, GATEWAY_BACKFILL, PAYMENTS_APP, PAYMENTS_WORKER),
    *(LEDGER_APP, LEDGER_WORKER, RECHARGE_APP, RECHARGE_WORKER),
)


@dataclass(frozen=True, slots=True)
class StackConfig:
    """What a stack consists of. `stripe` None: the simulator. `data_dir` None: data that is removed at the end."""

    label: str = "stack"
    processes: tuple[ServiceProcess, ...] = ALL_PROCESSES
    stripe: StripeAccess | None = None
    data_dir: Path | None = None
    well_known_ports: bool = False
    extra_env: Mapping[str, str] = field(default_factory=dict[str, str])


class Stack:
    """Starts everything side by side. Stops it on `close`, or when this process ends, in whatever way.

    All calls block; from async code use `asyncio.to_thread`.
    """

    def __init__(self, config: StackConfig | None = None, say: Callable[[str], None] = lambda _text: None) -> None:
        """Reserves the ports, so that every address is known before anything runs. `say` gets progress messages."""
        self.config = config or StackConfig()
        self._say = say
        self._logs: ClaimedDirectory = claim_log_dir(self.config.label)
        self._throw_away = self.config.data_dir is None
        directory = self.config.data_dir or Path(tempfile.mkdtemp(prefix=f"prepaid-{self.config.label}-"))
        self._claim: ClaimedDirectory | None = None if self._throw_away else ClaimedDirectory(directory)
        self.directory = directory
        self._run_dir = directory / "run"  # the services' working directory: no .env there that they would read
        self._run_dir.mkdir(exist_ok=True)
        self.postgres = Postgres(directory / "postgres", self.log_file("postgres"), throw_away=self._throw_away)
        self.kafka = Kafka(directory / "kafka", self.log_file("kafka"), throw_away=self._throw_away)
        self.simulator: HttpProcess | None = None if self.config.stripe else self._make_simulator()
        stripe = self.config.stripe or StripeAccess(api_base=self.simulator.url if self.simulator else None)
        self.environment = ServiceEnvironment(
            self.postgres.server, self.kafka.server, stripe, extra=dict(self.config.extra_env)
        )
        self.processes: dict[str, HttpProcess] = {}
        for service_process in self.config.processes:
            self._add_process(
                service_process.name,
                service_process,
                service_process.well_known_port if self.config.well_known_ports else None,
            )
        if self.simulator is not None and GATEWAY_APP.name in self.processes:
            send_webhooks_to(self.simulator, f"{self.url(GATEWAY_APP)}/api/stripe/webhooks")

    @property
    def postgres_server(self) -> PostgresServer:
        return self.postgres.server

    @property
    def kafka_server(self) -> KafkaServer:
        return self.kafka.server

    def log_file(self, name: str) -> Path:
        """The log file of one process of this stack."""
        return self._logs.path / f"{name}.log"

    def url(self, service_process: ServiceProcess) -> str:
        """The address of a service process."""
        return self.processes[service_process.name].url

    def start(self) -> None:
        """Starts and migrates everything. On failure raises `NotReady` with the reason and leaves nothing running."""
        begun = time.monotonic()
        try:
            self._start_servers()
            side_by_side(process.start for process in self.processes.values())
        except BaseException:
            self.close()
            raise
        self._say(f"Everything is ready after {time.monotonic() - begun:.1f} s.")

    def add_replica(self, service_process: ServiceProcess) -> HttpProcess:
        """One more process of the same kind, started and ready."""
        replica = self.launch_replica(service_process)
        replica.wait_until_ready()
        return replica

    def launch_replica(self, service_process: ServiceProcess) -> HttpProcess:
        """One more process of the same kind, started and perhaps not ready yet."""
        name = f"{service_process.name}-{1 + sum(other.startswith(service_process.name) for other in self.processes)}"
        replica = self._add_process(name, service_process, None)
        replica.launch()
        return replica

    def run(self, service: str, *command: str, timeout_s: float = ONE_OFF_TIMEOUT_S) -> None:
        """`python -m <service> <command…>` with the stack's settings, until it ends. Raises `NotReady` if it fails."""
        self._run_once(f"{service} {' '.join(command)}", service, [service, *command], timeout_s)

    def close(self) -> None:
        """Stops the services, then PostgreSQL, Kafka and the simulator; removes throw-away data."""
        side_by_side([process.close for process in self.processes.values()])
        parts = (self.postgres, self.kafka, self.simulator)
        side_by_side([part.close for part in parts if part is not None])
        if self._throw_away:
            shutil.rmtree(self.directory, ignore_errors=True)
        if self._claim is not None:
            self._claim.close()
        self._logs.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_servers(self) -> None:
        side_by_side([self._start_postgres, self._start_kafka, self._start_simulator])

    def _start_postgres(self) -> None:
        server = self.postgres.start()
        server.run_file(INIT_SQL, role_passwords())
        self._say(f"PostgreSQL answers on port {server.port}.")
        used = {service_process.service for service_process in self.config.processes}
        migrating = [service for service in SERVICES_WITH_DATABASE if service in used]
        side_by_side([partial(self.run, service, "migrate") for service in migrating])
        self._say("The databases are migrated.")

    def _start_kafka(self) -> None:
        server = self.kafka.start()
        self._say(f"Kafka answers on {server.bootstrap_servers}.")
        self._run_once("topics", "shared", ["shared.topics", "create"], ONE_OFF_TIMEOUT_S)
        self._say("The topics are there.")

    def _start_simulator(self) -> None:
        if self.simulator is not None:
            self.simulator.start()
            self._say(f"The Stripe simulator answers on {self.simulator.url}.")

    def _run_once(self, name: str, service: str, arguments: list[str], timeout_s: float) -> None:
        command = Command(
            name,
            this_python("-m", *arguments),
            env=self.environment.of(service),
            cwd=self._run_dir,
            remove_when_orphaned=self._removable,
        )
        run_to_end(command, self.log_file(name.replace(" ", "-")), timeout_s)

    def _add_process(self, name: str, service_process: ServiceProcess, port: int | None) -> HttpProcess:
        self.processes[name] = HttpProcess(
            name,
            [service_process.service, service_process.command],
            env=self.environment.of(service_process.service, "{port}"),
            log_file=self.log_file(name),
            cwd=self._run_dir,
            port=port,
            remove_when_orphaned=self._removable,
        )
        return self.processes[name]

    def _make_simulator(self) -> HttpProcess:
        port = WELL_KNOWN_SIMULATOR_PORT if self.config.well_known_ports else None
        log_file = self.log_file("stripe-simulator")
        return make_simulator(log_file, self._run_dir, port=port, remove_when_orphaned=self._removable)

    @property
    def _removable(self) -> tuple[Path, ...]:
        return (self._run_dir,) if self._throw_away else ()
