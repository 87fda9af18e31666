"""All three invariants at once. Events take time to arrive, so a check may have to be repeated until all hold."""

import asyncio
from dataclasses import dataclass, field

import httpx

from embedded.servers import PostgresServer
from invariants.rules import every_cent_once, never_charged_twice, only_its_own
from invariants.sources import (
    attempts_and_caps,
    charges_at_stripe,
    entries_and_receipts,
    foreign_rows_by_table,
)
from shared.signed_metadata import MARKER

POLL_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class Report:
    """The violations of each invariant, and how much was compared: a check of nothing shows nothing."""

    every_cent_once: list[str]
    never_charged_twice: list[str]
    only_its_own: list[str]
    charges: int
    charged_minor: dict[str, int] = field(default_factory=dict[str, int])
    entries: int = 0
    attempts: int = 0
    tables: int = 0

    @property
    def violations(self) -> list[str]:
        """The violations of all three."""
        return [*self.every_cent_once, *self.never_charged_twice, *self.only_its_own]

    @property
    def all_hold(self) -> bool:
        """Whether there is no violation, and something was compared."""
        return not self.violations and self.charges > 0 and self.entries > 0 and self.tables > 0


async def check_invariants(http: httpx.AsyncClient, stripe_url: str, postgres: PostgresServer) -> Report:
    """Checks once, as things are now."""
    entries, receipts = await entries_and_receipts(postgres)
    attempts, caps = await attempts_and_caps(postgres)
    charges = await charges_at_stripe(http, stripe_url)
    tables, foreign = await foreign_rows_by_table(postgres)
    ours = [charge for charge in charges if MARKER in charge.metadata]
    totals: dict[str, int] = {}
    for charge in ours:
        totals[charge.currency] = totals.get(charge.currency, 0) + charge.amount_minor
    return Report(
        every_cent_once=every_cent_once(charges, entries, receipts),
        never_charged_twice=never_charged_twice(ours, caps, attempts),
        only_its_own=only_its_own(ours, entries, foreign),
        charges=len(ours),
        charged_minor=totals,
        entries=len(entries),
        attempts=len(attempts),
        tables=tables,
    )


async def check_until_all_hold(
    http: httpx.AsyncClient, stripe_url: str, postgres: PostgresServer, timeout_s: float = 60.0
) -> Report:
    """Checks repeatedly until all invariants hold or `timeout_s` has passed; returns the last report."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        report = await check_invariants(http, stripe_url, postgres)
        if report.all_hold or asyncio.get_running_loop().time() > deadline:
            return report
        await asyncio.sleep(POLL_INTERVAL_S)
