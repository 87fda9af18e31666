"""The same two servers in containers, by testcontainers: `make test-containers`."""

from collections.abc import Generator
from contextlib import contextmanager

from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from embedded.postgres import DEVELOPMENT_PASSWORD, MAX_CONNECTIONS
from embedded.servers import SUPERUSER, KafkaServer, PostgresServer

POSTGRES_IMAGE = "postgres:17"
KAFKA_IMAGE = "apache/kafka:4.4.0"
START_TIMEOUT_S = 120
_START_SCRIPT = "/start-when-told.sh"


@contextmanager
def postgres_container() -> Generator[PostgresServer]:
    """PostgreSQL as compose runs it, but that it does not wait for the disk."""
    container = PostgresContainer(
        POSTGRES_IMAGE, username=SUPERUSER, password=DEVELOPMENT_PASSWORD, dbname=SUPERUSER
    ).with_command(f"postgres -c max_connections={MAX_CONNECTIONS} -c fsync=off")
    with container:
        host, port = container.get_container_host_ip(), int(container.get_exposed_port(5432))
        yield PostgresServer(host, port, DEVELOPMENT_PASSWORD)


@contextmanager
def kafka_container() -> Generator[KafkaServer]:
    """One KRaft node of the official image. It must advertise a port that is known only once it is mapped, so the
    container waits for a script with that address in it.
    """
    listeners = ("PLAINTEXT://:9092", "INTERNAL://:9093", "CONTROLLER://:9094")
    container = DockerContainer(KAFKA_IMAGE).with_exposed_ports(9092)
    container.with_command(["sh", "-c", f"until [ -f {_START_SCRIPT} ]; do sleep 0.1; done; exec bash {_START_SCRIPT}"])
    container.with_envs(
        KAFKA_NODE_ID="1",
        KAFKA_PROCESS_ROLES="broker,controller",
        KAFKA_LISTENERS=",".join(listeners),
        KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        KAFKA_INTER_BROKER_LISTENER_NAME="INTERNAL",
        KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
        KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9094",
        KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
        KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
        KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS="1",
        KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
        KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
        KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS="1",
        KAFKA_HEAP_OPTS="-Xmx512m",
    )
    with container:
        address = f"{container.get_container_host_ip()}:{container.get_exposed_port(9092)}"
        advertised = f"PLAINTEXT://{address},INTERNAL://localhost:9093"
        script = f"export KAFKA_ADVERTISED_LISTENERS={advertised}\nexec /etc/kafka/docker/run\n"
        container.copy_into_container(script.encode(), _START_SCRIPT, 0o755)
        strategy = LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(START_TIMEOUT_S)
        strategy.wait_until_ready(container)
        yield KafkaServer(address)
