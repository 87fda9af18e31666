"""A tenant's grants while a batch is planned: which is spent first, and what each has left."""

from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from ledger.core.state import Grant, GrantAmounts, GrantChange

_NEVER = datetime.max.replace(tzinfo=UTC)


class GrantMoves(NamedTuple):
    """What each of the grants gained or, below zero, lost."""

    grant_numbers: Sequence[int]
    credits: Sequence[int]


class Lot:
    """What is left of one grant: `remaining` are free, `held` are in holds; the other numbers are as in `Grant`."""

    __slots__ = (
        "expired", "expires_at", "held", "number", "paid_by_others", "rank", "remaining", "reversed", "unpaid",
    )  # fmt: skip

    def __init__(self, grant: Grant) -> None:
        self.number = grant.number
        self.remaining = grant.remaining
        self.held = grant.held
        self.expired = grant.expired
        self.reversed = grant.reversed
        self.unpaid = grant.unpaid
        self.paid_by_others = grant.paid_by_others
        self.expires_at = grant.expires_at
        self.rank = (grant.priority, grant.expires_at or _NEVER, grant.number)

    @property
    def may_expire(self) -> int:
        """Free credits that can expire: those that other grants have not paid for."""
        return max(0, self.remaining - self.paid_by_others)

    def is_over(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now


def _rank(lot: Lot) -> tuple[int, datetime, int]:
    return lot.rank


class Lots:
    """All lots that a batch may touch. They are burnt in this order: lowest priority number, soonest expiry, oldest."""

    __slots__ = ("_by_number", "_open", "_touched")

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._by_number = {grant.number: Lot(grant) for grant in grants}
        self._open = [lot for lot in self._by_number.values() if lot.remaining]
        if len(self._open) > 1:
            self._open.sort(key=_rank)
        self._touched: set[int] = set()

    def burn_from_first(self, credits: int) -> int | None:
        """Takes `credits` from the first lot in order, if it has more than that, and returns its number. Else None."""
        if self._open and (first := self._open[0]).remaining > credits:
            first.remaining -= credits
            self._touched.add(first.number)
            return first.number
        return None

    def burn(self, credits: int) -> tuple[GrantMoves, int]:
        """Takes up to `credits` in the order; returns the moves (negative) and how many credits are missing."""
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
        return GrantMoves(numbers, amounts), credits

    def take(self, number: int, credits: int) -> int:
        """Takes up to `credits` from one grant and returns how many it took."""
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
        self._touched.add(number)

    def expire(self, number: int) -> int:
        """Expires what can expire of a grant and returns how many credits."""
        lot = self._by_number[number]
        expired = self.take(number, lot.may_expire)
        lot.expired += expired
        return expired

    def unexpire(self, number: int, credits: int) -> int:
        """Gives back up to `credits` of the expired ones of a grant and returns how many."""
        lot = self._by_number[number]
        returned = min(lot.expired, credits)
        if returned:
            lot.expired -= returned
            self.put_back(number, returned)
        return returned

    def reverse(self, number: int, credits: int) -> int:
        """Takes up to `credits` back from one grant and returns how many it had; the others are unpaid."""
        taken = self.take(number, credits)
        lot = self._by_number[number]
        lot.reversed += credits
        lot.unpaid += credits - taken
        self._touched.add(number)
        return taken

    def unreverse(self, number: int, credits: int) -> None:
        """Gives reversed credits back to their grant."""
        self._by_number[number].reversed -= credits
        self.put_back(number, credits)

    def pay_debt(self, moves: GrantMoves, receivable_paid: int) -> None:
        """Takes the credits that pay a debt. Of the receivable, each grant first pays what its own reversals left
        unpaid, then what those of the oldest grants left."""
        for number, credits in zip(*moves, strict=True):
            self.take(number, -credits)
            paid = min(-credits, receivable_paid)
            receivable_paid -= paid
            self._pay_unpaid(self._by_number[number], paid)

    def _pay_unpaid(self, payer: Lot, credits: int) -> None:
        own = min(payer.unpaid, credits)
        payer.unpaid -= own
        credits -= own
        for number in sorted(self._by_number) if credits else ():
            lot = self._by_number[number]
            paid = min(lot.unpaid, credits)
            if paid:
                lot.unpaid -= paid
                lot.paid_by_others += paid
                credits -= paid
                self._touched.add(number)
        assert not credits, "what is receivable is unpaid of some grant"

    def hold(self, moves: GrantMoves) -> None:
        """Marks the burnt credits of the moves as held."""
        for number, credits in zip(*moves, strict=True):
            self._by_number[number].held -= credits

    def unhold(self, number: int, credits: int) -> None:
        """Removes credits from what is held. The caller says where they go."""
        lot = self._by_number[number]
        lot.held -= credits
        self._touched.add(number)
        assert lot.held >= 0, "no more can leave a hold than went in"

    def add(self, grant: Grant) -> None:
        """Adds a grant that this batch made."""
        lot = Lot(grant)
        self._by_number[grant.number] = lot
        if lot.remaining:
            insort(self._open, lot, key=_rank)

    def due(self, now: datetime) -> Iterable[Lot]:
        """Lots whose time is over, with credits that can expire."""
        return [lot for lot in self._open if lot.is_over(now) and lot.may_expire]

    def amounts(self, number: int) -> GrantAmounts:
        """The amounts of one grant now."""
        lot = self._by_number[number]
        return GrantAmounts(lot.remaining, lot.held, lot.expired, lot.reversed, lot.unpaid, lot.paid_by_others)

    def changes(self, tenant: str, excluded: Iterable[int]) -> Iterator[GrantChange]:
        """The changes of the grants that were touched, except those in `excluded`."""
        for number in sorted(self._touched.difference(excluded)):
            yield GrantChange(tenant, number, *self.amounts(number))
