"""A running gateway on real Kafka, and an HTTP client for it."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from embedded.environment import inherited
from embedded.http_process import HttpProcess
from embedded.servers import KafkaServer, in_thread
from shared.topic_admin import create_topics

#: Creates a gateway for one test: `make_gateway("name", kafka, VARIABLE="value")`, not started yet.
MakeGateway = Callable[..., HttpProcess]
#: As during a rotation.
SECRETS = "whsec_test_new_one,whsec_test_old_one"


def _gateway(name: str, kafka: KafkaServer, log_dir: Path, cwd: Path, **variables: str) -> HttpProcess:
    return HttpProcess(
        name,
        ["webhook_gateway", "app"],
        log_file=log_dir / f"{name}.log",
        cwd=cwd,
        env={
            **inherited(),
            "HTTP_PORT": "{port}",
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "STRIPE_WEBHOOK_SECRET": SECRETS,
            **variables,
        },
    )


@pytest.fixture(scope="session")
def topic_prefix(kafka_server: KafkaServer) -> str:
    """Topics of this package's tests alone."""
    prefix = f"gateway-{secrets.token_hex(4)}."
    in_thread(lambda: create_topics(kafka_server.bootstrap_servers, prefix))
    return prefix


@pytest.fixture(scope="session")
def gateway(
    kafka_server: KafkaServer, topic_prefix: str, log_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpProcess]:
    """The gateway, ready, in test mode, with two secrets as during a rotation."""
    process = _gateway("gateway", kafka_server, log_dir, tmp_path_factory.mktemp("gateway"), TOPIC_PREFIX=topic_prefix)
    try:
        process.start()
        yield process
    finally:
        process.close()


@pytest.fixture
def make_gateway(log_dir: Path, tmp_path: Path) -> Iterator[MakeGateway]:
    """Gateways with other settings, or on another Kafka."""
    made: list[HttpProcess] = []

    def make(name: str, kafka: KafkaServer, **variables: str) -> HttpProcess:
        made.append(_gateway(name, kafka, log_dir, tmp_path, **variables))
        return made[-1]

    yield make
    for process in made:
        process.close()


@pytest.fixture
async def client(gateway: HttpProcess) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP to the gateway."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20) as client:
        yield client
