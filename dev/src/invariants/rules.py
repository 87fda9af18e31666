"""The three invariants as pure functions: each takes Stripe's charges and our rows, and returns the violations."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shared.signed_metadata import MARKER


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge that succeeded, as Stripe has it. Amounts are in minor units."""

    payment_intent: str
    customer: str | None
    amount_minor: int
    currency: str
    refunded_minor: int
    disputed_minor: int
    metadata: Mapping[str, str]
    created: datetime

    @staticmethod
    def of(entry: Mapping[str, Any]) -> "Charge":
        """From an entry of `GET /_sim/books`."""
        return Charge(
            payment_intent=entry["payment_intent"],
            customer=entry["customer"],
            amount_minor=entry["amount_minor"],
            currency=entry["currency"],
            refunded_minor=entry["refunded"],
            disputed_minor=entry["disputed"],
            metadata=entry["metadata"],
            created=datetime.fromtimestamp(entry["created"], UTC),
        )

    @property
    def reversed_minor(self) -> int:
        """What went back to the card's owner, at most the amount."""
        return min(self.amount_minor, self.refunded_minor + self.disputed_minor)


@dataclass(frozen=True, slots=True)
class Entry:
    """A transfer of the ledger that belongs to a PaymentIntent. `credits` is signed."""

    tenant: str
    kind: str
    payment_intent: str
    credits: int
    amount_minor: int | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """An unapplied receipt: money that the ledger recorded and has not credited."""

    payment_intent: str
    amount_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Cap:
    """The most that automatic charges may take from a tenant in a calendar month, UTC."""

    tenant: str
    currency: str
    monthly_cap_minor: int


@dataclass(frozen=True, slots=True)
class AttemptSpan:
    """When an attempt was open. `ended_at` None: it still is."""

    tenant: str
    attempt: str
    began_at: datetime
    ended_at: datetime | None


CREDITING = ("purchase", "recharge")


def every_cent_once(charges: Sequence[Charge], entries: Sequence[Entry], receipts: Sequence[Receipt]) -> list[str]:
    """Invariant 1: every cent is in the ledger exactly once, and nothing else is. Returns the violations."""
    violations: list[str] = []
    credited: dict[str, list[Entry]] = defaultdict(list)
    reversed_credits: Counter[str] = Counter()
    for entry in entries:
        if entry.kind in CREDITING:
            credited[entry.payment_intent].append(entry)
        else:
            reversed_credits[entry.payment_intent] -= entry.credits
    ours = {charge.payment_intent: charge for charge in charges if MARKER in charge.metadata}
    received = {receipt.payment_intent: receipt for receipt in receipts}
    for name, charge in ours.items():
        violations += _one_charge(charge, credited.get(name, []), received.get(name), reversed_credits[name])
    violations += [f"{name} is in the ledger, and Stripe never took it" for name in credited.keys() - ours.keys()]
    return violations


def _one_charge(charge: Charge, entries: list[Entry], receipt: Receipt | None, reversed_credits: int) -> list[str]:
    name, money = charge.payment_intent, (charge.amount_minor, charge.currency)
    if receipt is not None and not entries:
        held = (receipt.amount_minor, receipt.currency)
        return [] if held == money else [f"{name}: the unapplied receipt says {held}, Stripe took {money}"]
    if len(entries) != 1:
        return [f"{name}: Stripe took {money}, the ledger has it {len(entries)} times"]
    entry, violations = entries[0], list[str]()
    if (entry.amount_minor, entry.currency) != money:
        violations.append(f"{name}: Stripe took {money}, the ledger says {(entry.amount_minor, entry.currency)}")
    if entry.credits != int(charge.metadata["credits"]):
        violations.append(f"{name}: {charge.metadata['credits']} credits were sold, {entry.credits} granted")
    owed_back = entry.credits * charge.reversed_minor // charge.amount_minor
    if reversed_credits != owed_back:
        violations.append(f"{name}: {owed_back} credits are to be taken back, {reversed_credits} were")
    return violations


def never_charged_twice(charges: Sequence[Charge], caps: Iterable[Cap], attempts: Sequence[AttemptSpan]) -> list[str]:
    """Invariant 2: no card is charged twice for one need, or beyond the cap. Returns the violations."""
    violations: list[str] = []
    for need in ("purchase", "attempt"):
        times = Counter(charge.metadata[need] for charge in charges if need in charge.metadata)
        violations += [f"{need} {name} was charged {count} times" for name, count in times.items() if count > 1]
    taken: Counter[tuple[str, str, str]] = Counter()
    for charge in charges:
        if "attempt" in charge.metadata:
            taken[charge.metadata["tenant"], charge.currency, f"{charge.created:%Y-%m}"] += charge.amount_minor
    limits = {(cap.tenant, cap.currency): cap.monthly_cap_minor for cap in caps}
    for (tenant, currency, month), amount_minor in taken.items():
        limit = limits.get((tenant, currency), 0)
        if amount_minor > limit:
            violations.append(f"{tenant}: {amount_minor} {currency} charged in {month}, the cap is {limit}")
    return violations + _overlaps(attempts)


def _overlaps(attempts: Sequence[AttemptSpan]) -> list[str]:
    violations: list[str] = []
    newest: dict[str, AttemptSpan] = {}
    for attempt in sorted(attempts, key=lambda span: (span.tenant, span.began_at)):
        before = newest.get(attempt.tenant)
        if before is not None and (before.ended_at is None or before.ended_at > attempt.began_at):
            violations.append(f"{attempt.tenant}: attempt {attempt.attempt} began while {before.attempt} was open")
        newest[attempt.tenant] = attempt
    return violations


def only_its_own(charges: Sequence[Charge], entries: Sequence[Entry], foreign_rows: Mapping[str, int]) -> list[str]:
    """Invariant 3: a tenant sees and spends only its own. Returns the violations.

    `foreign_rows`: for each table, how many rows of other tenants the API's role reads while confined to one.
    """
    violations = [
        f"{table}: a tenant's role reads {rows} rows of others" for table, rows in foreign_rows.items() if rows
    ]
    tenants_of: dict[str, set[str]] = defaultdict(set)
    sold_to: dict[str, str] = {}
    for charge in charges:
        if MARKER in charge.metadata:
            sold_to[charge.payment_intent] = charge.metadata["tenant"]
            if charge.customer is not None:
                tenants_of[charge.customer].add(charge.metadata["tenant"])
    violations += [f"{customer} paid for {sorted(names)}" for customer, names in tenants_of.items() if len(names) > 1]
    for entry in entries:
        buyer = sold_to.get(entry.payment_intent)
        if buyer is not None and buyer != entry.tenant:
            violations.append(f"{entry.payment_intent}: {buyer} paid, {entry.tenant} has the entry")
    return violations
