"""The parts that the tests run on: PostgreSQL, Kafka and the Stripe simulator, all real."""

import importlib.util
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from embedded.testing import ServiceDatabase
from stripe_simulator.testing import RunningSimulator, run_simulator

# Test modules are imported by path; what they share is loaded here under a name of its own.
_spec = importlib.util.spec_from_file_location("recharge_house", Path(__file__).with_name("recharge_house.py"))
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["recharge_house"] = _module
_spec.loader.exec_module(_module)

from recharge_house import House, open_house  # noqa: E402


@pytest.fixture(scope="session")
def running_recharge_simulator() -> Iterator[RunningSimulator]:
    with run_simulator() as simulator:
        yield simulator


@pytest.fixture
def simulator(running_recharge_simulator: RunningSimulator) -> RunningSimulator:
    """Stripe, with nothing in it."""
    running_recharge_simulator.post("/reset")
    return running_recharge_simulator


@pytest.fixture
async def house(database_of: Callable[[str], ServiceDatabase], simulator: RunningSimulator) -> AsyncIterator[House]:
    """Recharge without Kafka: its handlers and steps on a database of its own."""
    async with open_house(database_of("recharge"), simulator) as house:
        yield house
