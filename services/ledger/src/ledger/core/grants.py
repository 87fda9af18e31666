"""A tenant's grants while a batch is planned: what is burnt first, and what each has left."""

from bisect import insort
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from ledger.core.state import Grant, GrantChange

_NEVER = datetime.max.replace(tzinfo=UTC)

#: What each grant lost or gained, as (grant numbers, credits).
Moves = tuple[list[int], list[int]]


class Lot:
    """One grant's rest."""

    __slots__ = ("credits", "expires_at", "number", "rank", "remaining")

    def __init__(self, grant: Grant) -> None:
        self.number = grant.number
        self.credits = grant.credits
        self.remaining = grant.remaining
        self.expires_at = grant.expires_at
        self.rank = (grant.priority, grant.expires_at or _NEVER, grant.number)


def _rank(lot: Lot) -> tuple[int, datetime, int]:
    return lot.rank


class Lots:
    """All lots that a batch may touch, those with credits left in burning order: lowest priority number, soonest
    expiry, oldest."""

    __slots__ = ("_by_number", "_open", "_touched")

    def __init__(self, grants: Iterable[Grant]) -> None:
        self._by_number = {grant.number: Lot(grant) for grant in grants}
        self._open = sorted((lot for lot in self._by_number.values() if lot.remaining), key=_rank)
        self._touched: set[int] = set()

    def burn(self, credits: int) -> tuple[Moves, int]:
        """Takes up to `credits` in burning order; returns what was taken where (negative), and what is missing."""
        numbers: list[int] = []
        amounts: list[int] = []
        while credits and self._open:
            lot = self._open[0]
            taken = min(lot.remaining, credits)
            credits -= taken
            numbers.append(lot.number)
            amounts.append(-taken)
            self._touched.add(lot.number)
            lot.remaining -= taken
            if not lot.remaining:
                self._open.pop(0)
        return (numbers, amounts), credits

    def take(self, number: int, credits: int) -> int:
        """Takes up to `credits` from one grant and returns how many it had."""
        lot = self._by_number[number]
        taken = min(lot.remaining, credits)
        if taken:
            lot.remaining -= taken
            self._touched.add(number)
            if not lot.remaining:
                self._open.remove(lot)
        return taken

    def put_back(self, number: int, credits: int) -> None:
        """Gives credits back to the grant they were taken from."""
        lot = self._by_number[number]
        if not lot.remaining:
            insort(self._open, lot, key=_rank)
        lot.remaining += credits
        assert lot.remaining <= lot.credits, "a grant cannot hold more than it was made with"
        self._touched.add(number)

    def add(self, grant: Grant) -> None:
        """Takes up a grant made in this batch."""
        lot = Lot(grant)
        self._by_number[grant.number] = lot
        if lot.remaining:
            insort(self._open, lot, key=_rank)

    def due(self, now: datetime) -> list[Lot]:
        """Lots with credits left whose time is over."""
        return [lot for lot in self._open if lot.expires_at is not None and lot.expires_at <= now]

    def remaining(self, number: int) -> int:
        """What one grant has left."""
        return self._by_number[number].remaining

    def changes(self, tenant: str, but: frozenset[int]) -> Iterator[GrantChange]:
        """What has become of the grants that were touched, without those made in this batch (`but`)."""
        return (
            GrantChange(tenant, number, self._by_number[number].remaining) for number in sorted(self._touched - but)
        )
