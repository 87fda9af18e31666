"""A workload for crash tests: tenants with saved cards and auto-recharge, and debits that cause recharges."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from demo.clients import Product, Refused, Tenant
from demo.steps import until
from demo.traffic import until_answered
from shared.ids import new_id

PACKAGE, PACKAGE_CREDITS, PACKAGE_MINOR = "starter", 1_000, 1_000
MONTHLY_CAP_MINOR = 50 * PACKAGE_MINOR


@dataclass(slots=True)
class DebitLoop:
    """Debits tenants in turn until `stop`, so that their cards are recharged. Counts the answers."""

    product: Product
    tenants: Sequence[Tenant]
    credits: int = 150
    pause_s: float = 0.02
    debits: int = 0
    refused: int = 0
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Debits each tenant in turn. A 402 is counted; a lost connection is repeated under the same reference."""
        while not self._stop.is_set():
            for tenant in self.tenants:
                await self._debit(tenant)
                await asyncio.sleep(self.pause_s)

    def stop(self) -> None:
        """Ends `run` after the current round."""
        self._stop.set()

    async def _debit(self, tenant: Tenant) -> None:
        reference = new_id("job")
        try:
            await until_answered(lambda: self.product.debit(tenant.name, self.credits, reference=reference))
            self.debits += 1
        except Refused as refused:
            if refused.status not in {402, 404}:
                raise
            self.refused += 1


async def enable_auto_recharge(tenant: Tenant, monthly_cap_minor: int = MONTHLY_CAP_MINOR) -> None:
    """Buys a package, saves the card, waits until it is the default, and turns auto-recharge on."""
    await tenant.buy(PACKAGE, save_card=True)

    async def has_default_card() -> bool:
        return any(card["isDefault"] for card in await tenant.cards())

    await until(has_default_card, f"{tenant.name}'s saved card")
    await tenant.set_auto_recharge(
        threshold_credits=PACKAGE_CREDITS // 2, amount_minor=PACKAGE_MINOR, monthly_cap_minor=monthly_cap_minor
    )
