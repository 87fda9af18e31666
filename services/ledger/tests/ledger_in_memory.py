"""Keeps the state in memory, so that `plan` can run batch after batch without PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime

from ledger.core.commands import Command, OrderKey
from ledger.core.plan import plan
from ledger.core.receivables import Receivables
from ledger.core.state import (
    Balance,
    Changes,
    Grant,
    GrantAmounts,
    HoldState,
    PaymentIntent,
    PostedReference,
    ReferenceKey,
    State,
    Transfer,
)

from .builders import NOW
from .tenant_view import TenantView


class LedgerInMemory:
    """Keeps what `plan` changes, and asserts what must hold after every batch."""

    def __init__(self) -> None:
        self.balances: dict[str, Balance] = {}
        self.grants: dict[str, dict[int, Grant]] = {}
        self.references: dict[ReferenceKey, PostedReference] = {}
        self.intents: dict[str, PaymentIntent] = {}
        self.transfers: list[Transfer] = []
        self.holds: dict[str, dict[str, HoldState]] = {}

    def run(self, commands: Sequence[Command], now: datetime = NOW) -> Changes:
        grants = {tenant: list(lots.values()) for tenant, lots in self.grants.items()}
        holds = {tenant: list(of_tenant.values()) for tenant, of_tenant in self.holds.items()}
        state = State(self.balances, grants, self.references, self.intents, holds, self.orders)
        changes = plan(state, commands, now)
        transfers = [*(each for run in changes.runs for each in run.transfers()), *changes.transfers]
        transfers.sort(key=lambda each: (each.tenant, each.version))
        for each in transfers:
            key = ReferenceKey(each.tenant, each.namespace, each.reference)
            assert key not in self.references, f"{key} twice"
            self.references[key] = PostedReference(
                each.input_hash, each.version, each.credits, each.available_after, each.created_at
            )
        self.transfers += transfers
        self.balances |= {balance.tenant: balance for balance in changes.balances}
        self.intents |= {intent.id: intent for intent in changes.payment_intents}
        for grant in changes.new_grants:
            self.grants.setdefault(grant.tenant, {})[grant.number] = grant
        for tenant, number, *rest in changes.changed_grants:
            self.grants[tenant][number] = self.grants[tenant][number]._replace(**GrantAmounts(*rest)._asdict())
        for hold in [*changes.new_holds, *changes.ended_holds]:
            self.holds.setdefault(hold.tenant, {})[hold.reference] = hold
        self._assert_books_add_up()
        return changes

    def announce(self, tenant: str, limit: int, now: datetime = NOW) -> None:
        balance = self.balances.get(tenant, Balance.empty(tenant, now))
        self.balances[tenant] = balance._replace(overdraft_limit=limit)

    @property
    def orders(self) -> dict[OrderKey, str]:
        """To which PaymentIntent each order was credited."""
        credited = [(each.id, each.credit) for each in self.intents.values() if each.credit is not None]
        return {
            OrderKey(credit.tenant, kind, name): payment_intent
            for payment_intent, credit in credited
            for kind, name in (("purchase", credit.purchase), ("attempt", credit.attempt))
            if name is not None
        }

    def views(self) -> dict[str, TenantView]:
        return {
            tenant: TenantView(
                balance.balance, balance.held, balance.owed,
                {number: (lot.remaining, lot.held) for number, lot in self.grants.get(tenant, {}).items()},
                {name: (hold.status.value, hold.captured) for name, hold in self.holds.get(tenant, {}).items()},
            )
            for tenant, balance in self.balances.items()
        }  # fmt: skip

    def balance(self, tenant: str = "acme") -> int:
        return self.balances[tenant].balance if tenant in self.balances else 0

    def _assert_books_add_up(self) -> None:
        for tenant, balance in self.balances.items():
            of_tenant = [each for each in self.transfers if each.tenant == tenant]
            assert balance.balance == sum(each.balance_change for each in of_tenant)
            assert balance.version == len(of_tenant)
            lots = self.grants.get(tenant, {})
            assert balance.balance == sum(lot.remaining + lot.held for lot in lots.values()) - balance.owed
            assert all(lot.remaining >= 0 and lot.held >= 0 for lot in lots.values())
            assert all(lot.expired >= 0 and lot.expired + lot.reversed <= lot.credits for lot in lots.values())
            held = sum(hold.credits for hold in self.holds.get(tenant, {}).values() if hold.ended_at is None)
            assert held == balance.held == sum(lot.held for lot in lots.values())
            assert 0 <= balance.receivable <= balance.owed
            recomputed, receivable = Receivables(), 0
            for each in sorted(of_tenant, key=lambda each: each.version):
                if each.receivable_after != receivable:
                    recomputed.change(each.receivable_after - receivable, each.grant_numbers, each.grant_credits)
                receivable = each.receivable_after
            assert balance.receivable == sum(lot.unpaid for lot in lots.values())
            for number, lot in lots.items():
                assert (lot.unpaid, lot.paid_by_others) == (
                    recomputed.unpaid[number], recomputed.paid_by_others[number],
                )  # fmt: skip
