"""What the ledger must hold after a soak: a running sum of every answered request and every sent event."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Sale:
    """A PaymentIntent with its refunds and disputes, each as (amount, is_undone)."""

    tenant: str
    credits: int
    amount_minor: int
    refunds: list[tuple[int, bool]] = field(default_factory=list[tuple[int, bool]])
    disputes: list[tuple[int, bool]] = field(default_factory=list[tuple[int, bool]])

    @property
    def reversed_credits(self) -> int:
        """In proportion, never more than was bought, as the README says. Undone refunds and disputes do not count."""
        minor = sum(amount for amount, is_undone in self.refunds + self.disputes if not is_undone)
        return self.credits * min(self.amount_minor, minor) // self.amount_minor


Key = tuple[str, str, str]
"""Tenant, namespace, reference."""


@dataclass(slots=True)
class Expected:
    """For every reference, by how much it changes the balance, and how many credits it moves."""

    tenants: Sequence[str]
    entries: dict[Key, tuple[int, int]] = field(default_factory=dict[Key, tuple[int, int]])
    versions: dict[Key, int] = field(default_factory=dict[Key, int])
    held: Counter[str] = field(default_factory=Counter[str])
    sales: dict[str, Sale] = field(default_factory=dict[str, Sale])

    def post(self, tenant: str, namespace: str, reference: str, change: int, *, moved: int = 0) -> Key:
        key = tenant, namespace, reference
        assert key not in self.entries, f"the test used {key} twice"
        self.entries[key] = change, moved or abs(change)
        return key

    def answered(self, key: Key, version: int) -> None:
        """Notes the version in an answer. A repeated request gets the same version."""
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
