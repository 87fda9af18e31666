"""The ledger on PostgreSQL against the model: any commands, twice, in any order, at any time, by several workers."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from embedded.testing import ServiceDatabase
from ledger.core.commands import Command
from ledger.core.retention import archive_before
from ledger.core.touched import touched_by
from ledger.jobs.archive import archive_old_transfers
from ledger.repository.balances import set_tenant
from shared.clock import utc_now
from shared.database import make_engine

from .books import Batch, Books
from .builders import promotion, purchase
from .histories import (
    INTENTS,
    TENANTS,
    batches,
    commands,
    credit_of,
    limits,
    moved_to,
    repeated,
    repetitions,
    tenants,
    times_until,
)
from .model import Model

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

HOLDS_LAST_AT_MOST = timedelta(days=30)


class LedgerMachine(RuleBasedStateMachine):
    """Drives both, and compares all that they show after every step. Its time begins 400 days ago, so that part of what
    it does grows old enough for the archive."""

    def __init__(self, books: Books, run: Run[Any]) -> None:
        super().__init__()
        self.books = books
        self.run = run
        self.model = Model()
        self.archived_before = archive_before(utc_now())
        self.now = self.archived_before - timedelta(days=10)
        self.before: list[Command] = []
        self.run(books.empty())

    @initialize(credits=st.integers(1, 40))
    def begin(self, credits: int) -> None:
        """Two tenants with credits, and an unknown one."""
        acme, bravo, _ = TENANTS
        self._apply([credit_of(INTENTS[0]), promotion("welcome", credits, tenant=acme)])
        self._apply([purchase("pi_first", credits, tenant=bravo)])

    @rule(batch=batches)
    def post(self, batch: Sequence[Command]) -> None:
        self._apply(moved_to(self.now, batch))

    @rule(again=repetitions, batch=batches)
    def post_again(self, again: Sequence[int], batch: Sequence[Command]) -> None:
        self._apply([*repeated(self.before, again, self.now), *moved_to(self.now, batch)])

    @rule(
        own=st.lists(st.lists(commands, max_size=4), min_size=2, max_size=3),
        of_all=st.lists(commands, max_size=4),
        again=repetitions,
    )
    def post_concurrently(
        self, own: Sequence[Sequence[Command]], of_all: Sequence[Command], again: Sequence[int]
    ) -> None:
        """Several workers: each with commands of its own, and with some that come to all of them in different order."""
        shared = [*moved_to(self.now, of_all), *repeated(self.before, again, self.now)]
        given = [
            self._of_known([*moved_to(self.now, batch), *(shared if n % 2 else reversed(shared))])
            for n, batch in enumerate(own)
        ]
        for batch in self.run(self.books.post_concurrently(*([batch] for batch in given), now=self.now)):
            self._apply_to_model(batch)

    @rule(tenant=tenants, limit=limits)
    def announce(self, tenant: str, limit: int) -> None:
        self.run(self._announce(tenant, limit))
        self.model.announce(tenant, limit)

    @rule(passed=times_until)
    def time_passes(self, passed: timedelta) -> None:
        """Time passes. The next command of a tenant ends its due grants and holds."""
        self.now += passed

    @precondition(lambda self: self.now > self.archived_before + HOLDS_LAST_AT_MOST)
    @rule()
    def archive(self) -> None:
        self.run(archive_old_transfers(self.books.engine))
        self.model.forget(self.archived_before)

    @invariant()
    def shows_what_the_model_says(self) -> None:
        assert self.run(self.books.views()) == self.model.views()

    def teardown(self) -> None:
        self.run(self.books.assert_right())

    def _apply(self, batch: Sequence[Command]) -> None:
        self.run(self.books.post(*batch, now=self.now))
        self._apply_to_model(batch)

    def _apply_to_model(self, batch: Sequence[Command]) -> None:
        for command in batch:
            self.model.record(command, self.now)
        self.before += batch

    def _of_known(self, batch: Sequence[Command]) -> list[Command]:
        """A tenant that becomes known in one worker may still be unknown to a batch that has begun in another."""
        return [each for each in batch if touched_by([each]).tenants <= self.model.tenants.keys()]

    async def _announce(self, tenant: str, limit: int) -> None:
        async with self.books.engine.begin() as connection:
            await set_tenant(connection, tenant, overdraft_limit=limit, now=self.now)


@pytest.fixture
def run() -> Iterator[Run[Any]]:
    """Runs coroutines one after the other on a loop of this test's own."""
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete
    loop.close()


@pytest.fixture
def books(database_of: Callable[[str], ServiceDatabase], run: Run[Any]) -> Iterator[Books]:
    """A ledger on that loop."""
    database = database_of("ledger")
    engine = make_engine(database.worker_url, application_name="ledger-test", pool_size=3)
    yield Books(database, engine)
    run(engine.dispose())


@pytest.mark.timeout(600)  # green it takes half a minute; red, the smallest failing example is looked for
def test_any_steps_end_as_the_model_says(books: Books, run: Run[Any]) -> None:
    run_state_machine_as_test(
        partial(LedgerMachine, books, run),
        settings=settings(
            max_examples=50,
            stateful_step_count=25,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_two_concurrent_writers_end_as_the_model_says(books: Books, run: Run[Any]) -> None:
    several = st.lists(batches, max_size=12)

    @settings(max_examples=15, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
    @given(several, several, several, st.randoms(use_true_random=False))
    def end_as_the_model_says(of_one: list[Batch], of_other: list[Batch], of_both: list[Batch], random: Random) -> None:
        run(books.empty())
        begun = [credit_of(intent) for intent in INTENTS[:3]]
        run(books.post(*begun))
        writers = [of_one + of_both, of_other + [batch[::-1] for batch in of_both]]
        for writer in writers:
            random.shuffle(writer)
        model = Model()
        for batch in [begun, *run(books.post_concurrently(*writers))]:
            for command in batch:
                model.record(command)
        assert run(books.views()) == model.views()
        run(books.assert_right())

    end_as_the_model_says()
