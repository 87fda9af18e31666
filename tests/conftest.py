"""The whole product, started once for all end-to-end tests. Each test uses tenants of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest

from demo.__main__ import addresses_of
from demo.clients import Addresses, Product, Tenant
from demo.simulator import Simulator
from embedded.stack import Stack, StackConfig
from invariants.check import Report, check_until_all_hold
from invariants.ledger_check import check_ledger
from shared.ids import new_id

#: The backfill runs at the start, and otherwise only when a test runs it, so that lost events stay lost until then.
QUIET_BACKFILL = {"BACKFILL_EVERY_S": "86400"}


@dataclass(frozen=True, slots=True)
class Flow:
    """A running stack and its clients."""

    stack: Stack
    http: httpx.AsyncClient
    addresses: Addresses
    simulator: Simulator
    product: Product

    def tenant(self, name: str = "tenant") -> Tenant:
        """A tenant that no other test uses."""
        return Tenant(self.addresses, self.http, new_id(name))

    async def check_ledger(self) -> None:
        """`ledger reconcile` and `ledger check` find no difference, once every event has arrived."""
        await asyncio.to_thread(check_ledger, self.stack)

    async def check_invariants(self, timeout_s: float = 60.0) -> Report:
        """The three invariants, once every event has arrived."""
        return await check_until_all_hold(self.http, self.addresses.stripe, self.stack.postgres_server, timeout_s)


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """PostgreSQL, Kafka, the simulator, every service process. A test adds a second replica where it needs one."""
    with Stack(StackConfig(label="test-flow", extra_env=QUIET_BACKFILL)) as running:
        yield running


@pytest.fixture(scope="package")
async def flow(stack: Stack) -> AsyncIterator[Flow]:
    addresses = addresses_of(stack)
    async with httpx.AsyncClient(timeout=30.0) as http:
        yield Flow(stack, http, addresses, Simulator(addresses.stripe, http), Product(addresses, http))


@pytest.fixture
def new_tenants(flow: Flow) -> Callable[[int], list[Tenant]]:
    """`new_tenants(5)`: tenants that no other test uses."""
    return lambda count: [flow.tenant() for _ in range(count)]
