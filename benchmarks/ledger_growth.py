"""ledger.growth: debits of 1,000 active tenants in a ledger with a million tenants, against a ledger with only these.
ledger.spent_grants: tenants with 10,000 spent grants, against tenants with one. ledger.all_active: all tenants in turn.
"""

import asyncio
import os
import statistics
from collections.abc import Sequence

from benchmarks.ledger_under_test import LedgerUnderTest, drain, ledger_under_test
from benchmarks.measurement import Measurement, RunOptions
from shared.ids import new_id

ACTIVE = 1_000
TENANTS, SPENT_GRANTS_OF_EACH = 1_000_000, 5  # 11 transfers each: 5 grants with a debit each, and the last grant
SEEDED_AT_ONCE = 100_000
OWNERS_OF_SPENT, SPENT = 100, 10_000
GROWTH_RATIO_MIN, SPENT_RATIO_MIN = 0.8, 0.9
RUNS, RECORDS = 5, 180_000
ALL_ACTIVE_RECORDS = 200_000


def run(options: RunOptions) -> Sequence[Measurement]:
    """Runs each measurement and its baseline alternately."""
    with ledger_under_test(options) as ledger:
        return asyncio.run(_measure(ledger, options))


async def _measure(ledger: LedgerUnderTest, options: RunOptions) -> Sequence[Measurement]:
    quick = options.quick
    tenants, spent = (10_000, 100) if quick else (TENANTS, SPENT)
    grown, many = await ledger.second_ledger("grown."), await ledger.second_ledger("many.")
    await ledger.seed(ACTIVE, spent_grants=1)
    for first in range(1, tenants + 1, SEEDED_AT_ONCE):
        await grown.seed(min(SEEDED_AT_ONCE, tenants), first=first, spent_grants=SPENT_GRANTS_OF_EACH)
        options.say(f"{min(first + SEEDED_AT_ONCE - 1, tenants):,} tenants")
    await many.seed(OWNERS_OF_SPENT, spent_grants=spent)
    transfers = await _transfers(grown)
    active = [f"tenant-{n}" for n in range(1, ACTIVE + 1)]
    runs, records = (1, 10_000) if quick else (RUNS, RECORDS)
    growth = await _in_turn(ledger, grown, "grown.", active, runs, records)
    of_spent = await _in_turn(ledger, many, "many.", active[:OWNERS_OF_SPENT], runs, records)
    everyone = [f"tenant-{n}" for n in range(1, tenants + 1)]
    all_records = min(ALL_ACTIVE_RECORDS, tenants)
    await grown.publish_usage(everyone[-all_records:], all_records, new_id("all"), "grown.")
    all_active = await drain(grown, all_records, "grown.")
    settings: dict[str, object] = {"runs": runs, "records": records, "cpus": os.cpu_count()}
    return [
        _compared("ledger.growth", growth, None if quick else GROWTH_RATIO_MIN,
                  settings | {"active": ACTIVE, "tenants": tenants, "transfers": transfers}),
        _compared("ledger.spent_grants", of_spent, None if quick else SPENT_RATIO_MIN,
                  settings | {"active": OWNERS_OF_SPENT, "spent_grants_of_each": spent}),
        Measurement(
            "ledger.all_active", all_active.per_s, "1/s", settings={"tenants": tenants, "records": all_records}
        ),
    ]  # fmt: skip


async def _in_turn(
    small: LedgerUnderTest, large: LedgerUnderTest, prefix: str, tenants: Sequence[str], runs: int, records: int
) -> Sequence[tuple[float, float]]:
    """(large, small) debits a second, run after run."""
    pairs: list[tuple[float, float]] = []
    for _ in range(runs):
        await large.publish_usage(tenants, records, new_id("run"), prefix)
        await small.publish_usage(tenants, records, new_id("run"))
        pairs.append(((await drain(large, records, prefix)).per_s, (await drain(small, records)).per_s))
        large.options.say(f"{prefix[:-1]}: {pairs[-1][0]:,.0f}/s, beside it {pairs[-1][1]:,.0f}/s")
    return pairs


def _compared(
    name: str, pairs: Sequence[tuple[float, float]], ratio_min: float | None, settings: dict[str, object]
) -> Measurement:
    return Measurement(
        name, statistics.median(large for large, _ in pairs), "1/s",
        limit=statistics.median(small for _, small in pairs),
        ratio=statistics.median(large / small for large, small in pairs), ratio_min=ratio_min, settings=settings,
    )  # fmt: skip


async def _transfers(ledger: LedgerUnderTest) -> int:
    connection = await ledger.connect()
    try:
        return await connection.fetchval("SELECT count(*) FROM transfer")
    finally:
        await connection.close()
