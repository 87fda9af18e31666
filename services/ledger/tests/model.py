"""The simplest model of a ledger: every credit is a coin in one place, and every fact counts once."""

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ledger.core.accounts import PAID_CREDITS_PRIORITY, Kind, Namespace
from ledger.core.commands import (
    Adjustment,
    AllOrNothing,
    Capture,
    Command,
    Credit,
    Debit,
    DisputeSeen,
    Expire,
    Hold,
    HoldStatus,
    Promotion,
    RefundSeen,
    Release,
    UnappliedReceipt,
    Usage,
)

from .builders import NOW
from .tenant_view import TenantView

NEVER = datetime.max.replace(tzinfo=UTC)


class Coin(NamedTuple):
    """One credit. Coins in order are coins in the order in which they are burnt."""

    priority: int
    expires_at: datetime
    grant: int


@dataclass
class Reservation:
    coins: list[Coin]
    expires_at: datetime
    status: HoldStatus = HoldStatus.OPEN
    captured: int = 0


@dataclass
class Tenant:
    """Where the coins of one tenant are. `references`: what was posted under each, and when.

    `unpaid`: how many of each grant's coins were taken back when they were gone, and are owed. `paid_by_others`: how
    many were so once and were paid with coins of other grants; as many of those it has are those others'.
    """

    limit: int = 0
    owed: int = 0
    grants: int = 0
    free: list[Coin] = field(default_factory=list[Coin])
    expired: list[Coin] = field(default_factory=list[Coin])
    unpaid: Counter[int] = field(default_factory=Counter[int])
    paid_by_others: Counter[int] = field(default_factory=Counter[int])
    holds: dict[str, Reservation] = field(default_factory=dict[str, Reservation])
    references: dict[tuple[Namespace, str], tuple[Kind, int, datetime]] = field(
        default_factory=dict[tuple[Namespace, str], tuple[Kind, int, datetime]]
    )

    @property
    def available(self) -> int:
        return len(self.free) - self.owed

    def grant(self, credits: int, priority: int, expires_at: datetime | None) -> Coin:
        self.grants += 1
        coin = Coin(priority, expires_at or NEVER, self.grants)
        self.take_in([coin] * credits)
        return coin

    def take_in(self, coins: list[Coin]) -> None:
        """All coins that come in pay what is owed first."""
        paid = min(self.owed, len(coins))
        self.owed -= paid
        for coin in coins[:paid]:
            self.pay_with(coin)
        self.free = sorted(self.free + coins[paid:])

    def pay_with(self, coin: Coin) -> None:
        """Reversed coins are paid before overdrawn ones. A grant first pays its own, then those of the oldest
        grants."""
        for grant in (coin.grant, *range(1, self.grants + 1)):
            if self.unpaid[grant]:
                self.unpaid[grant] -= 1
                self.paid_by_others[grant] += grant != coin.grant
                return

    def burn(self, credits: int) -> list[Coin]:
        burnt, self.free = self.free[:credits], self.free[credits:]
        self.owed += credits - len(burnt)
        return burnt

    def take_back(self, coin: Coin, credits: int) -> None:
        """Takes coins back whose money was refunded: expired ones first."""
        for _ in range(credits):
            if coin in self.expired:
                self.expired.remove(coin)
            elif coin in self.free:
                self.free.remove(coin)
            else:
                self.owed += 1
                self.unpaid[coin.grant] += 1

    def give_back(self, coin: Coin, credits: int) -> None:
        """Returns coins whose refund or dispute was undone."""
        self.take_in([coin] * credits)

    def end(self, hold: Reservation, status: HoldStatus, captured: int = 0) -> None:
        rest, beyond = hold.coins[captured:], max(0, captured - len(hold.coins))
        hold.coins, hold.status, hold.captured = [], status, captured
        self.take_in(rest)
        self.burn(beyond)

    def end_due(self, now: datetime) -> None:
        """Ends holds first, in order of expiry: the coins that they release may be due too."""
        for _name, hold in sorted(self.holds.items(), key=lambda each: (each[1].expires_at, each[0])):
            if hold.status is HoldStatus.OPEN and hold.expires_at <= now:
                self.end(hold, HoldStatus.EXPIRED)
        for coin in [coin for coin in self.free if coin.expires_at <= now]:
            if self.free.count(coin) > self.paid_by_others[coin.grant]:
                self.free.remove(coin)
                if self.owed:
                    self.take_in([coin])
                else:
                    self.expired.append(coin)

    def is_first(self, namespace: Namespace, reference: str, kind: Kind, credits: int, now: datetime) -> bool:
        """Whether the reference is new; it is remembered."""
        used = kind, credits, now
        return self.references.setdefault((namespace, reference), used) is used

    def debit(self, debit: Debit, now: datetime) -> bool:
        """Whether it is recorded, now or before."""
        before = self.references.get((Namespace.PRODUCT, debit.reference))
        if before is not None:
            return before[:2] == (Kind.USAGE, debit.credits)
        if debit.credits > self.available + (self.limit if debit.may_overdraw else 0):
            return False
        self.is_first(Namespace.PRODUCT, debit.reference, Kind.USAGE, debit.credits, now)
        self.burn(debit.credits)
        return True

    def change(
        self, command: Usage | Debit | Hold | Capture | Release | Promotion | Adjustment | Expire, now: datetime
    ) -> None:
        match command:
            case Usage(_, reference, credits):
                if self.is_first(Namespace.PRODUCT, reference, Kind.USAGE, credits, now):
                    self.burn(credits)
            case Debit():
                self.debit(command, now)
            case Hold(_, reference, credits, _, expires_at):
                is_new = reference not in self.holds and (Namespace.PRODUCT, reference) not in self.references
                if is_new and credits <= self.available:
                    self.is_first(Namespace.PRODUCT, reference, Kind.HOLD, credits, now)
                    self.holds[reference] = Reservation(self.burn(credits), expires_at)
            case Capture(_, name, credits, may_overdraw):
                hold = self.holds.get(name)
                if hold is not None and hold.status is HoldStatus.OPEN:
                    beyond = credits - len(hold.coins)
                    if beyond <= 0 or beyond <= self.available + (self.limit if may_overdraw else 0):
                        self.end(hold, HoldStatus.CAPTURED, credits)
            case Release(_, name):
                hold = self.holds.get(name)
                if hold is not None and hold.status is HoldStatus.OPEN:
                    self.end(hold, HoldStatus.RELEASED)
            case Promotion(_, reference, credits, priority, expires_at):
                if self.is_first(Namespace.OPERATOR, reference, Kind.PROMOTION, credits, now):
                    self.grant(credits, priority, expires_at)
            case Adjustment(_, reference, credits):
                if self.is_first(Namespace.OPERATOR, reference, Kind.ADJUSTMENT, credits, now):
                    if credits > 0:
                        self.grant(credits, PAID_CREDITS_PRIORITY, None)
                    else:
                        self.burn(-credits)
            case Expire():
                pass

    def view(self) -> TenantView:
        held = [coin for hold in self.holds.values() for coin in hold.coins]
        free_of = [coin.grant for coin in self.free]
        held_of = [coin.grant for coin in held]
        return TenantView(
            len(self.free) + len(held) - self.owed, len(held), self.owed,
            {grant: (free_of.count(grant), held_of.count(grant)) for grant in range(1, self.grants + 1)},
            {name: (hold.status.value, hold.captured) for name, hold in self.holds.items()},
        )  # fmt: skip


@dataclass
class Model:
    """Knows nothing of batches, versions, lots or transfers."""

    tenants: dict[str, Tenant] = field(default_factory=dict[str, Tenant])
    credited: dict[str, tuple[Credit, Coin]] = field(default_factory=dict[str, tuple[Credit, Coin]])
    reversed: dict[str, int] = field(default_factory=dict[str, int])
    refunds: dict[tuple[str, str], tuple[int, bool]] = field(default_factory=dict[tuple[str, str], tuple[int, bool]])
    disputes: dict[tuple[str, str, str], int] = field(default_factory=dict[tuple[str, str, str], int])

    def announce(self, tenant: str, limit: int) -> None:
        self.tenants.setdefault(tenant, Tenant()).limit = limit

    def record(self, command: Command, now: datetime = NOW) -> None:
        """`now` never goes back."""
        match command:
            case UnappliedReceipt():
                pass
            case Credit(name, intent):
                if intent not in self.credited:
                    tenant = self.tenants.setdefault(name, Tenant())
                    tenant.end_due(now)
                    days = command.expires_in_days
                    expires_at = None if days is None else now + timedelta(days=days)
                    coin = tenant.grant(command.credits, PAID_CREDITS_PRIORITY, expires_at)
                    self.credited[intent] = command, coin
                    self._reverse(intent, now)
            case RefundSeen(intent, name, amount_minor, _, status):
                _, was_void = self.refunds.get((intent, name), (0, False))
                self.refunds[intent, name] = amount_minor, was_void or status in {"failed", "canceled"}
                self._reverse(intent, now)
            case DisputeSeen(intent, name, amount_minor, _, moved):
                self.disputes.setdefault((intent, name, moved), amount_minor)
                self._reverse(intent, now)
            case AllOrNothing(debits):
                tried = deepcopy(self.tenants)
                for debit in debits:
                    for tenants in (self.tenants, tried):
                        if debit.tenant in tenants:
                            tenants[debit.tenant].end_due(now)
                if all(debit.tenant in tried and tried[debit.tenant].debit(debit, now) for debit in debits):
                    self.tenants = tried
            case _:
                if command.tenant in self.tenants:
                    tenant = self.tenants[command.tenant]
                    tenant.end_due(now)
                    tenant.change(command, now)
                    tenant.end_due(now)

    def forget(self, before: datetime) -> None:
        """Forgets older references. PaymentIntents and holds are never forgotten."""
        for tenant in self.tenants.values():
            tenant.references = {name: used for name, used in tenant.references.items() if used[2] >= before}

    def views(self) -> dict[str, TenantView]:
        return {name: tenant.view() for name, tenant in self.tenants.items()}

    def to_reverse(self, intent: str) -> int:
        credit, _ = self.credited[intent]
        minor = sum(amount for (of, _), (amount, is_void) in self.refunds.items() if of == intent and not is_void)
        for name in {name for of, name, _ in self.disputes if of == intent}:
            taken = self.disputes.get((intent, name, "withdrawn"), 0)
            minor += max(0, taken - self.disputes.get((intent, name, "reinstated"), 0))
        return credit.credits * min(credit.amount_minor, minor) // credit.amount_minor

    def _reverse(self, intent: str, now: datetime) -> None:
        """Takes back, or gives back, the difference between what is to be reversed now and what was reversed so far."""
        if intent not in self.credited:
            return
        credit, coin = self.credited[intent]
        missing = self.to_reverse(intent) - self.reversed.get(intent, 0)
        if missing:
            tenant = self.tenants[credit.tenant]
            tenant.end_due(now)
            self.reversed[intent] = self.to_reverse(intent)
            if missing > 0:
                tenant.take_back(coin, missing)
            else:
                tenant.give_back(coin, -missing)
            tenant.end_due(now)
