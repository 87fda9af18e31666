"""What a plan starts from (`State`), and what it leads to (`Changes`). The repository reads the one and writes the
other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from types import MappingProxyType
from typing import NamedTuple

from ledger.core.accounts import COUNTER_ACCOUNT, Account, Kind, Namespace
from ledger.core.commands import HoldStatus, OrderKey, Outcome, UnappliedReceipt, Usage, input_hash


class ReferenceKey(NamedTuple):
    tenant: str
    namespace: Namespace
    reference: str


class PostedReference(NamedTuple):
    """What is kept under a reference: the hash of its input, and its first result."""

    input_hash: bytes
    version: int
    credits: int
    available_after: int
    created_at: datetime


class DayUsage(NamedTuple):
    """Running totals of one day (UTC): at most `PURPOSES_MAX` purposes by name, the others in one sum."""

    day: date | None = None
    by_purpose: Mapping[str, int] = MappingProxyType({})
    of_other_purposes: int = 0


class Balance(NamedTuple):
    """A tenant's balance in credits. `balance` = what its grants have left − `owed`; available = `balance` − `held`.

    `version` counts the tenant's transfers. `receivable` is the part of `owed` that reversals left. `overdraft_limit`
    is how far below zero a debit may take what is available.
    """

    tenant: str
    version: int
    balance: int
    held: int
    owed: int
    receivable: int
    grants_made: int
    usage: DayUsage
    changed_at: datetime
    overdraft_limit: int = 0

    @staticmethod
    def empty(tenant: str, now: datetime) -> "Balance":
        """The balance of a tenant before its first transfer."""
        return Balance(
            tenant=tenant, version=0, balance=0, held=0, owed=0, receivable=0, grants_made=0, usage=DayUsage(),
            changed_at=now,
        )  # fmt: skip


class Grant(NamedTuple):
    """A lot of credits: `credits` at first; now `remaining` are free and `held` are in holds. Numbered by tenant, in
    the order they were made.

    `reversed` were taken back with the money that bought them, from this grant or as a debt. `expired` are those that
    expired and were not taken back: no more expire than the money that is left has bought. `unpaid` were reversed when
    the grant had spent them, and are owed still; `paid_by_others` were so once, and the credits of other grants have
    paid them: as many of this grant's are theirs, and do not expire.
    """

    tenant: str
    number: int
    namespace: Namespace
    reference: str
    payment_intent: str | None
    credits: int
    remaining: int
    priority: int
    expires_at: datetime | None
    created_at: datetime
    held: int = 0
    expired: int = 0
    reversed: int = 0
    unpaid: int = 0
    paid_by_others: int = 0


class GrantAmounts(NamedTuple):
    """The amounts of a grant that a batch may change."""

    remaining: int
    held: int
    expired: int
    reversed: int
    unpaid: int
    paid_by_others: int


class GrantChange(NamedTuple):
    tenant: str
    number: int
    remaining: int
    held: int
    expired: int
    reversed: int
    unpaid: int
    paid_by_others: int


class HoldState(NamedTuple):
    """Credits reserved of `grant_numbers`, in burning order. `ended_*` is the balance right after it ended."""

    tenant: str
    reference: str
    credits: int
    purpose: str
    status: HoldStatus
    captured: int
    grant_numbers: Sequence[int]
    grant_credits: Sequence[int]
    expires_at: datetime
    created_at: datetime
    ended_at: datetime | None = None
    ended_version: int | None = None
    ended_available: int | None = None


@dataclass(frozen=True, slots=True)
class RefundState:
    """`currency` is empty where it was not kept: then it is the credit's."""

    amount_minor: int
    is_void: bool
    currency: str = ""


@dataclass(frozen=True, slots=True)
class DisputeState:
    """`currency` as in `RefundState`."""

    withdrawn_minor: int = 0
    reinstated_minor: int = 0
    currency: str = ""


@dataclass(frozen=True, slots=True)
class RefusedReversal:
    """A refund, or a move of a dispute's funds, that is not in the credit's currency: it counts nothing. `is_void`: a
    refund that failed or was canceled, or a dispute whose funds came back, so that nobody need look at it."""

    reference: str
    amount_minor: int
    currency: str
    is_void: bool = False


@dataclass(frozen=True, slots=True)
class CreditOfIntent:
    """What a PaymentIntent was credited with, and what has been reversed of it."""

    tenant: str
    grant_number: int
    kind: Kind
    credits: int
    amount_minor: int
    currency: str
    purchase: str | None
    attempt: str | None
    reversed_credits: int


@dataclass(frozen=True, slots=True)
class PaymentIntent:
    """All that the ledger knows of a PaymentIntent. Reversals wait here until there is a `credit`.

    `receipt_tenant` is set where it has an unapplied receipt: the tenant it claims, or "". `refused` are by reference.
    """

    id: str
    credit: CreditOfIntent | None = None
    receipt_tenant: str | None = None
    refunds: Mapping[str, RefundState] = field(default_factory=dict[str, RefundState])
    disputes: Mapping[str, DisputeState] = field(default_factory=dict[str, DisputeState])
    refused: Mapping[str, RefusedReversal] = field(default_factory=dict[str, RefusedReversal])


class TransferDetails(NamedTuple):
    """What a transfer says beside the credits that it moved."""

    purpose: str | None = None
    occurred_at: datetime | None = None
    amount_minor: int | None = None
    currency: str | None = None
    payment_intent: str | None = None
    purchase: str | None = None
    attempt: str | None = None


class DebtChange(NamedTuple):
    """What a transfer adds to the debt, or pays of it (negative). `receivable` is a part of `owed`."""

    owed: int = 0
    receivable: int = 0


class Transfer(NamedTuple):
    """Credits moved from one account of a tenant to another; never changed afterwards.

    `grant_numbers` and `grant_credits` say what each grant gained or lost by it (a capture: of its held part; all else:
    of its free part), the `…_after` what the tenant had then, so that every number in the books can be added up again.
    What grants lose in a transfer that brings credits in has paid a debt.
    """

    tenant: str
    namespace: Namespace
    reference: str
    input_hash: bytes
    kind: Kind
    source: Account
    destination: Account
    credits: int
    version: int
    balance_after: int
    available_after: int
    owed_after: int
    receivable_after: int
    grant_numbers: Sequence[int]
    grant_credits: Sequence[int]
    created_at: datetime
    purpose: str | None = None
    occurred_at: datetime | None = None
    amount_minor: int | None = None
    currency: str | None = None
    payment_intent: str | None = None
    purchase: str | None = None
    attempt: str | None = None
    over_overdraft_limit: bool = False

    @property
    def balance_change(self) -> int:
        """Credits, signed as the tenant sees them; 0 where they only change between available and held."""
        return balance_change(self.source, self.destination, self.credits)


@dataclass(slots=True)
class UsageRun:
    """Consecutive debits of one tenant, all covered by the same grant: nearly all that a busy ledger writes. What they
    have in common is kept once.

    The first brings the balance to `first_version`, from `opening_balance`; what is held and owed stays as it is.
    """

    tenant: str
    first_version: int
    opening_balance: int
    held: int
    owed: int
    receivable: int
    grant_number: int
    created_at: datetime
    debits: list[Usage]

    def transfers(self) -> Iterator[Transfer]:
        """The transfer of each debit."""
        balance = self.opening_balance
        for version, debit in enumerate(self.debits, self.first_version):
            balance -= debit.credits
            yield Transfer(
                tenant=self.tenant,
                namespace=Namespace.PRODUCT,
                reference=debit.reference,
                input_hash=input_hash(Kind.USAGE, -debit.credits),
                kind=Kind.USAGE,
                source=Account.AVAILABLE,
                destination=COUNTER_ACCOUNT[Kind.USAGE],
                credits=debit.credits,
                version=version,
                balance_after=balance,
                available_after=balance - self.held,
                owed_after=self.owed,
                receivable_after=self.receivable,
                grant_numbers=(self.grant_number,),
                grant_credits=(-debit.credits,),
                created_at=self.created_at,
                purpose=debit.purpose,
                occurred_at=debit.occurred_at,
            )


def balance_change(source: str, destination: str, credits: int) -> int:
    """What a transfer does to the tenant's balance."""
    return ((destination in _BALANCE) - (source in _BALANCE)) * credits


_BALANCE = frozenset([Account.AVAILABLE, Account.HELD])


@dataclass(frozen=True, slots=True)
class State:
    """Everything a batch touches, read under its locks.

    `grants` has the tenants' unspent grants and those that reversals and holds are about; `holds` has the open ones
    that are due and those that commands name; a tenant without balance is unknown. `orders` says to which PaymentIntent
    each order that commands name was credited.
    """

    balances: Mapping[str, Balance] = field(default_factory=dict[str, Balance])
    grants: Mapping[str, Sequence[Grant]] = field(default_factory=dict[str, Sequence[Grant]])
    references: Mapping[ReferenceKey, PostedReference] = field(default_factory=dict[ReferenceKey, PostedReference])
    payment_intents: Mapping[str, PaymentIntent] = field(default_factory=dict[str, PaymentIntent])
    holds: Mapping[str, Sequence[HoldState]] = field(default_factory=dict[str, Sequence[HoldState]])
    orders: Mapping[OrderKey, str] = field(default_factory=dict[OrderKey, str])


@dataclass(frozen=True, slots=True)
class Changes:
    """What a batch does. `outcomes` answers the commands in their order; debits are in `runs` where they can be,
    else in `transfers`."""

    outcomes: Sequence[Outcome]
    runs: Sequence[UsageRun]
    transfers: Sequence[Transfer]
    balances: Sequence[Balance]
    new_grants: Sequence[Grant]
    changed_grants: Sequence[GrantChange]
    payment_intents: Sequence[PaymentIntent]
    receipts: Sequence[UnappliedReceipt]
    resolved_receipts: Sequence[tuple[str, str]]
    """(claimed tenant, PaymentIntent) of receipts whose PaymentIntent has been credited after all."""
    new_holds: Sequence[HoldState] = ()
    ended_holds: Sequence[HoldState] = ()
    refused_reversals: Sequence[tuple[PaymentIntent, RefusedReversal]] = ()
    """Reversals that were refused for the first time, with the credited PaymentIntent that they are of."""
