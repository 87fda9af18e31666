"""What a batch has to lock and read, besides the PaymentIntents that its commands name."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeGuard, assert_never

from ledger.core.accounts import Namespace
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
    Promotion,
    RefundSeen,
    Release,
    UnappliedReceipt,
    Usage,
)
from ledger.core.state import ReferenceKey

DebitCommand = Usage | Debit | AllOrNothing
_DEBIT_COMMANDS = frozenset((Usage, Debit, AllOrNothing))


@dataclass(frozen=True, slots=True)
class Touched:
    """`holds` are (tenant, reference)."""

    tenants: set[str] = field(default_factory=set[str])
    references: list[ReferenceKey] = field(default_factory=list[ReferenceKey])
    holds: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])


def touched_by(commands: Sequence[Command]) -> Touched:
    """All that the commands name; a reference may be in it twice."""
    touched = Touched()
    for command in commands:
        _add(touched, command)
    return touched


def are_debits(commands: Sequence[Command]) -> TypeGuard[Sequence[DebitCommand]]:
    """Whether the commands are debits only. Then a plan that posts all of them is right even if no reference was looked
    up, unless the primary key of `transfer` finds one that is taken."""
    return all(type(each) in _DEBIT_COMMANDS for each in commands)


def tenants_of_debits(commands: Sequence[DebitCommand]) -> set[str]:
    """The tenants that these commands debit."""
    return {debit.tenant for each in commands for debit in (each.debits if isinstance(each, AllOrNothing) else (each,))}


def _add(touched: Touched, command: Command) -> None:
    match command:
        case Usage(tenant, reference) | Debit(tenant, reference):
            touched.tenants.add(tenant)
            touched.references.append(ReferenceKey(tenant, Namespace.PRODUCT, reference))
        case AllOrNothing(debits):
            for debit in debits:
                _add(touched, debit)
        case Credit(tenant, payment_intent):
            touched.tenants.add(tenant)
            touched.references.append(ReferenceKey(tenant, Namespace.STRIPE, payment_intent))
        case Promotion(tenant, reference) | Adjustment(tenant, reference):
            touched.tenants.add(tenant)
            touched.references.append(ReferenceKey(tenant, Namespace.OPERATOR, reference))
        case Hold(tenant, reference):
            touched.tenants.add(tenant)
            touched.references.append(ReferenceKey(tenant, Namespace.PRODUCT, reference))
            touched.holds.add((tenant, reference))
        case Capture(tenant, hold) | Release(tenant, hold):
            touched.tenants.add(tenant)
            touched.holds.add((tenant, hold))
        case Expire(tenant):
            touched.tenants.add(tenant)
        case UnappliedReceipt() | RefundSeen() | DisputeSeen():
            pass
        case _:
            assert_never(command)
