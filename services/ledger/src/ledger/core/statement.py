"""A tenant's statement of a month: from sums of its entries to a statement whose parts add up."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from ledger.core.accounts import Kind

#: How many purposes of a day are listed by name; the others are one sum.
PURPOSES_OF_DAY_MAX = 100
OTHER_PURPOSES = "(other purposes)"

GRANT_KINDS = frozenset([Kind.PURCHASE, Kind.RECHARGE, Kind.PROMOTION, Kind.ADJUSTMENT])
SPEND_KINDS = frozenset([Kind.USAGE, Kind.CAPTURE])
EXPIRY_KINDS = frozenset([Kind.EXPIRY, Kind.EXPIRY_REVERSAL])
REVERSAL_KINDS = frozenset([Kind.REFUND, Kind.DISPUTE, Kind.DISPUTE_WON])


class NotAMonth(ValueError):
    """Not a month as `2026-09`."""


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month, UTC: from `begin` until before `end`."""

    begin: datetime
    end: datetime

    @staticmethod
    def parse(text: str) -> "Month":
        """From `2026-09`; raises `NotAMonth`."""
        try:
            begin = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
            end = begin.replace(year=begin.year + begin.month // 12, month=begin.month % 12 + 1)
        except ValueError as error:
            raise NotAMonth(text) from error
        if f"{begin:%Y-%m}" != text:
            raise NotAMonth(text)
        return Month(begin, end)

    def __str__(self) -> str:
        return f"{self.begin:%Y-%m}"


@dataclass(frozen=True, slots=True)
class Standing:
    """A balance at a moment. `balance` = free + held − owed, of which `balance` − `held` is available."""

    version: int = 0
    balance: int = 0
    held: int = 0
    owed: int = 0
    receivable: int = 0


@dataclass(frozen=True, slots=True)
class KindTotal:
    """All entries of one kind in one currency; `credits` is what they changed the balance by."""

    kind: Kind
    entries: int
    credits: int
    currency: str | None
    amount_minor: int | None


@dataclass(frozen=True, slots=True)
class GrantMove:
    """What entries of one kind did to one grant: credits that it gained, and credits that it lost (negative).

    `is_incoming`: the entries brought credits in; what the grant lost in these has paid a debt.
    """

    grant_number: int
    kind: Kind
    is_incoming: bool
    gained: int
    lost: int


@dataclass(slots=True)
class GrantLine:
    """A grant's month: opening + granted + used + … = closing. Credits that it lost are negative."""

    grant_number: int
    kind: str
    reference: str
    created_at: datetime
    expires_at: datetime | None
    opening: int = 0
    granted: int = 0
    used: int = 0
    expired: int = 0
    reversed: int = 0
    adjusted: int = 0
    paid_debt: int = 0
    closing: int = 0

    def add(self, move: GrantMove) -> None:
        """Counts a move of the month."""
        if move.is_incoming:
            self.paid_debt += move.lost
        if move.kind in SPEND_KINDS:
            self.used += move.lost
        elif move.kind in EXPIRY_KINDS:
            self.expired += move.gained if move.is_incoming else move.lost
        elif move.kind in REVERSAL_KINDS:
            self.reversed += move.gained if move.is_incoming else move.lost
        elif move.kind in GRANT_KINDS:
            if move.is_incoming:
                self.granted += move.gained
            else:
                self.adjusted += move.lost

    @property
    def change(self) -> int:
        """How the month changed what the grant has."""
        return self.granted + self.used + self.expired + self.reversed + self.adjusted + self.paid_debt

    @property
    def is_empty(self) -> bool:
        """Whether the grant had no credits and did not change."""
        return not (self.opening or self.closing or self.granted or self.change)


@dataclass(frozen=True, slots=True)
class DayUsage:
    day: date
    purpose: str
    credits: int


@dataclass(frozen=True, slots=True)
class Statement:
    """See `build_statement`."""

    tenant: str
    month: Month
    opening: Standing
    closing: Standing
    totals: Sequence[KindTotal]
    grants: Sequence[GrantLine]
    usage: Sequence[DayUsage] = field(default_factory=list[DayUsage])


@dataclass(frozen=True, slots=True)
class CurrentGrant:
    """A grant as it is today, and the transfer that made it."""

    line: GrantLine
    remaining: int
    held: int


def build_statement(
    tenant: str,
    month: Month,
    *,
    opening: Standing,
    closing: Standing,
    totals: Sequence[KindTotal],
    grants: Iterable[CurrentGrant],
    moves_of_month: Iterable[GrantMove],
    moves_since: Iterable[GrantMove],
    usage: Iterable[DayUsage],
) -> Statement:
    """The statement of a month.

    Grants are known as they are now. So what each had at the end of the month is worked out backwards by `moves_since`,
    the moves after the month, and from there what it had at the beginning by `moves_of_month`.
    """
    lines: dict[int, GrantLine] = {}
    for grant in grants:
        grant.line.closing = grant.remaining + grant.held
        lines[grant.line.grant_number] = grant.line
    later = {number: GrantLine(number, "", "", line.created_at, None) for number, line in lines.items()}
    for move in moves_since:
        later[move.grant_number].add(move)
    for move in moves_of_month:
        lines[move.grant_number].add(move)
    for number, line in lines.items():
        line.closing -= later[number].change
        line.opening = line.closing - line.change
    shown = [line for _number, line in sorted(lines.items()) if not line.is_empty]
    return Statement(tenant, month, opening, closing, totals, shown, list(_largest(usage)))


def _largest(usage: Iterable[DayUsage]) -> Iterable[DayUsage]:
    days: dict[date, list[DayUsage]] = {}
    for each in usage:
        days.setdefault(each.day, []).append(each)
    for day, purposes in sorted(days.items()):
        purposes.sort(key=lambda each: (-each.credits, each.purpose))
        yield from purposes[:PURPOSES_OF_DAY_MAX]
        rest = sum(each.credits for each in purposes[PURPOSES_OF_DAY_MAX:])
        if rest:
            yield DayUsage(day, OTHER_PURPOSES, rest)
