"""ledger.stream_debits: usage records a second from Kafka to commit with all bookkeeping, one worker process, against
bare debits on the same server. `_wide`: every debit of another tenant. ledger.hot_tenant: all of one."""

import asyncio
import os
import statistics
from collections.abc import Sequence

from benchmarks import bare_debits
from benchmarks.ledger_house import Drain, LedgerHouse, drain, ledger_house
from benchmarks.measurement import Measurement, RunOptions
from shared.ids import new_id

TENANTS, TENANTS_WIDE = 1_000, 100_000
RATIO_MIN = 0.6
AIM_PER_S, AIM_WIDE_PER_S, AIM_MEMORY_MB = 30_000, 18_000, 150


def run(options: RunOptions) -> Sequence[Measurement]:
    """Pairs of runs, ours and the bare one in turn."""
    with ledger_house(options) as house:
        return asyncio.run(_measure(house))


async def _measure(house: LedgerHouse) -> Sequence[Measurement]:
    narrow, wide = [f"tenant-{n}" for n in range(1, TENANTS + 1)], [f"tenant-{n}" for n in range(1, TENANTS_WIDE + 1)]
    await house.seed(TENANTS_WIDE)
    pairs, records = (1, 20_000) if house.options.quick else (5, 300_000)
    memory: list[Drain] = []
    ours, bare = await _pairs(house, narrow, pairs, records, "narrow", memory)
    wide_ours, wide_bare = await _pairs(house, wide, pairs, min(records, TENANTS_WIDE), "wide", memory)
    await house.publish_usage(narrow[:1], records // 2, new_id("hot"))
    hot = (await drain(house, records // 2)).per_s
    house.options.say(f"one tenant: {hot:,.0f}/s")
    settings: dict[str, object] = {"pairs": pairs, "records": records, "bare_batch": bare_debits.BATCH,
                                   "cpus": os.cpu_count(), **await _durability(house)}  # fmt: skip
    return [
        Measurement(
            "ledger.stream_debits", statistics.median(ours), "1/s", limit=statistics.median(bare),
            ratio=statistics.median(our / its for our, its in zip(ours, bare, strict=True)),
            ratio_min=None if house.options.quick else RATIO_MIN,
            settings={"tenants": TENANTS, "aim_per_s": AIM_PER_S, **settings},
        ),
        Measurement(
            "ledger.stream_debits_wide", statistics.median(wide_ours), "1/s", limit=statistics.median(wide_bare),
            ratio=statistics.median(our / its for our, its in zip(wide_ours, wide_bare, strict=True)),
            settings={"tenants": TENANTS_WIDE, "aim_per_s": AIM_WIDE_PER_S, **settings},
        ),
        Measurement(
            "ledger.hot_tenant", hot, "1/s", settings={"tenants": 1, "records": records // 2, "cpus": os.cpu_count()}
        ),
        Measurement(
            "ledger.worker_memory", max(each.most_mb for each in memory), "MB",
            settings={"aim_mb": AIM_MEMORY_MB, "median_early_mb": round(statistics.median(e.early_mb for e in memory)),
                      "median_most_mb": round(statistics.median(e.most_mb for e in memory))},
        ),
    ]  # fmt: skip


async def _pairs(
    house: LedgerHouse, tenants: Sequence[str], pairs: int, records: int, label: str, memory: list[Drain]
) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    bare: list[float] = []
    connection = await house.connect()
    try:
        await connection.execute("DROP TABLE IF EXISTS bare_debit, bare_balance")
        await bare_debits.prepare(connection, tenants)
        for pair in range(pairs):
            name = new_id(label)
            await house.publish_usage(tenants, records, name)
            drained = await drain(house, records)
            ours.append(drained.per_s)
            memory.append(drained)
            bare.append(await bare_debits.debits_per_s(connection, tenants, records, name))
            house.options.say(f"{label} {pair + 1}: {ours[-1]:,.0f}/s, bare {bare[-1]:,.0f}/s")
    finally:
        await connection.close()
    return ours, bare


async def _durability(house: LedgerHouse) -> dict[str, object]:
    connection = await house.connect()
    try:
        names = ("fsync", "synchronous_commit", "full_page_writes", "server_version")
        return {name: await connection.fetchval(f"SHOW {name}") for name in names}
    finally:
        await connection.close()
