"""All three sentences at once, and waiting until they are true: events travel, so they become true, not are."""

import asyncio
from dataclasses import dataclass, field

import httpx

from embedded.servers import PostgresServer
from proof.evidence import (
    attempts_and_caps,
    charges_in_the_books,
    entries_and_receipts,
    rows_of_others,
)
from proof.sentences import each_its_own, every_cent_once, never_charged_twice
from shared.signed_metadata import MARKER

POLL_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is false in each sentence, and what was looked at: a proof about nothing proves nothing."""

    cents: list[str]
    charges_twice: list[str]
    isolation: list[str]
    charges: int
    charged_minor: dict[str, int] = field(default_factory=dict[str, int])
    entries: int = 0
    attempts: int = 0
    tables: int = 0

    @property
    def wrong(self) -> list[str]:
        """Everything that is false."""
        return [*self.cents, *self.charges_twice, *self.isolation]

    @property
    def is_proven(self) -> bool:
        """Whether nothing is false and there was something to look at."""
        return not self.wrong and self.charges > 0 and self.entries > 0 and self.tables > 0


async def judge(http: httpx.AsyncClient, stripe_url: str, postgres: PostgresServer) -> Verdict:
    """Judges once, by what is true now."""
    entries, receipts = await entries_and_receipts(postgres)
    attempts, caps = await attempts_and_caps(postgres)
    charges = await charges_in_the_books(http, stripe_url)
    tables, foreign = await rows_of_others(postgres)
    ours = [charge for charge in charges if MARKER in charge.metadata]
    totals: dict[str, int] = {}
    for charge in ours:
        totals[charge.currency] = totals.get(charge.currency, 0) + charge.amount_minor
    return Verdict(
        cents=every_cent_once(charges, entries, receipts),
        charges_twice=never_charged_twice(ours, caps, attempts),
        isolation=each_its_own(ours, entries, foreign),
        charges=len(ours),
        charged_minor=totals,
        entries=len(entries),
        attempts=len(attempts),
        tables=tables,
    )


async def judge_when_settled(
    http: httpx.AsyncClient, stripe_url: str, postgres: PostgresServer, timeout_s: float = 60.0
) -> Verdict:
    """Judges again and again until all is proven, or `timeout_s` is over: then what is still false is false."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        verdict = await judge(http, stripe_url, postgres)
        if verdict.is_proven or asyncio.get_running_loop().time() > deadline:
            return verdict
        await asyncio.sleep(POLL_INTERVAL_S)
