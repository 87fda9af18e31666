"""What the books of a soak have to hold: a running sum of all that was answered and told, apart from the ledger."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Sale:
    """A PaymentIntent, and what becomes of its money."""

    tenant: str
    credits: int
    amount_minor: int
    refunds: list[tuple[int, bool]] = field(default_factory=list[tuple[int, bool]])
    disputes: list[tuple[int, bool]] = field(default_factory=list[tuple[int, bool]])

    @property
    def reversed_credits(self) -> int:
        """The README's rule: in proportion, and never more than was bought. Undone ones count nothing."""
        minor = sum(amount for amount, is_undone in self.refunds + self.disputes if not is_undone)
        return self.credits * min(self.amount_minor, minor) // self.amount_minor


Key = tuple[str, str, str]
"""Tenant, namespace, reference."""


@dataclass(slots=True)
class Expected:
    """What the books have to hold: of every reference what it changed the balance by, and how many credits it moved."""

    tenants: Sequence[str]
    entries: dict[Key, tuple[int, int]] = field(default_factory=dict[Key, tuple[int, int]])
    versions: dict[Key, int] = field(default_factory=dict[Key, int])
    held: Counter[str] = field(default_factory=Counter[str])
    sales: dict[str, Sale] = field(default_factory=dict[str, Sale])

    def post(self, tenant: str, namespace: str, reference: str, change: int, *, moved: int = 0) -> Key:
        key = tenant, namespace, reference
        assert key not in self.entries, f"the test has used {key} twice"
        self.entries[key] = change, moved or abs(change)
        return key

    def answered(self, key: Key, version: int) -> None:
        """The version that an answer named; a second answer names the same."""
        assert self.versions.setdefault(key, version) == version, f"{key} was answered twice, differently"

    def end_hold(self, tenant: str, name: str, credits: int, used: int) -> None:
        of_hold = min(credits, used)
        self.held[tenant] -= credits
        if of_hold:
            self.post(tenant, "system", f"hold:{name}:capture", -of_hold)
        if credits > of_hold:
            self.post(tenant, "system", f"hold:{name}:release", 0, moved=credits - of_hold)
        if used > of_hold:
            self.post(tenant, "system", f"hold:{name}:beyond", of_hold - used)

    def balances(self) -> dict[str, tuple[int, int]]:
        """Balance and held of each tenant."""
        sums: Counter[str] = Counter()
        for (tenant, _namespace, _reference), (change, _moved) in self.entries.items():
            sums[tenant] += change
        for sale in self.sales.values():
            sums[sale.tenant] -= sale.reversed_credits
        return {tenant: (sums[tenant], self.held[tenant]) for tenant in self.tenants}
