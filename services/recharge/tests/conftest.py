"""Fixtures on a real PostgreSQL, a real Kafka and the Stripe simulator."""

import importlib.util
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from embedded.servers import KafkaServer
from embedded.testing import ServiceDatabase
from stripe_simulator.testing import RunningSimulator, run_simulator


def _load(name: str) -> None:
    """Test modules are imported by path; what they share is loaded here by its name."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_load("recharge_environment")
_load("recharge_process")

from recharge_environment import RechargeEnvironment, open_environment  # noqa: E402
from recharge_process import Workers, open_workers  # noqa: E402


@pytest.fixture(scope="session")
def running_recharge_simulator() -> Iterator[RunningSimulator]:
    with run_simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(running_recharge_simulator: RunningSimulator) -> RunningSimulator:
    """The Stripe simulator, empty."""
    running_recharge_simulator.post("/reset")
    return running_recharge_simulator


@pytest.fixture
async def environment(
    database_of: Callable[[str], ServiceDatabase], simulator: RunningSimulator
) -> AsyncIterator[RechargeEnvironment]:
    """Recharge without Kafka: its handlers and steps on a database of its own."""
    async with open_environment(database_of("recharge"), simulator) as environment:
        yield environment


@pytest.fixture
async def workers(
    environment: RechargeEnvironment, kafka_server: KafkaServer, log_dir: Path, tmp_path: Path
) -> AsyncIterator[Workers]:
    """Recharge's workers as processes on Kafka, on the environment's database."""
    async with open_workers(environment, kafka_server, log_dir, tmp_path) as workers:
        yield workers
