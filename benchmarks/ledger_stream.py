"""ledger.stream_debits: usage records a second from Kafka to commit, one worker process, against bare debits on the
same server. `_wide`: each debit is of another tenant. ledger.hot_tenant: all are of one."""

import asyncio
import os
import statistics
from collections.abc import Sequence

from benchmarks import bare_debits
from benchmarks.ledger_under_test import Drain, LedgerUnderTest, drain, ledger_under_test
from benchmarks.measurement import Measurement, RunOptions
from shared.ids import new_id

TENANTS, TENANTS_WIDE = 1_000, 100_000
RATIO_MIN = 0.6
AIM_PER_S, AIM_WIDE_PER_S, AIM_MEMORY_MB = 30_000, 18_000, 150


def run(options: RunOptions) -> Sequence[Measurement]:
    """Pairs of runs, ours and the baseline alternately."""
    with ledger_under_test(options) as ledger:
        return asyncio.run(_measure(ledger))


async def _measure(ledger: LedgerUnderTest) -> Sequence[Measurement]:
    narrow, wide = [f"tenant-{n}" for n in range(1, TENANTS + 1)], [f"tenant-{n}" for n in range(1, TENANTS_WIDE + 1)]
    await ledger.seed(TENANTS_WIDE)
    pairs, records = (1, 20_000) if ledger.options.quick else (5, 300_000)
    memory: list[Drain] = []
    ours, bare = await _pairs(ledger, narrow, pairs, records, "narrow", memory)
    wide_ours, wide_bare = await _pairs(ledger, wide, pairs, min(records, TENANTS_WIDE), "wide", memory)
    await ledger.publish_usage(narrow[:1], records // 2, new_id("hot"))
    hot = (await drain(ledger, records // 2)).per_s
    ledger.options.say(f"one tenant: {hot:,.0f}/s")
    settings: dict[str, object] = {"pairs": pairs, "records": records, "bare_batch": bare_debits.BATCH,
                                   "cpus": os.cpu_count(), **await _durability(ledger)}  # fmt: skip
    return [
        Measurement(
            "ledger.stream_debits", statistics.median(ours), "1/s", limit=statistics.median(bare),
            ratio=statistics.median(our / its for our, its in zip(ours, bare, strict=True)),
            ratio_min=None if ledger.options.quick else RATIO_MIN,
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
    ledger: LedgerUnderTest, tenants: Sequence[str], pairs: int, records: int, label: str, memory: list[Drain]
) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    bare: list[float] = []
    connection = await ledger.connect()
    try:
        await connection.execute("DROP TABLE IF EXISTS bare_debit, bare_balance")
        await bare_debits.prepare(connection, tenants)
        for pair in range(pairs):
            name = new_id(label)
            await ledger.publish_usage(tenants, records, name)
            drained = await drain(ledger, records)
            ours.append(drained.per_s)
            memory.append(drained)
            bare.append(await bare_debits.debits_per_s(connection, tenants, records, name))
            ledger.options.say(f"{label} {pair + 1}: {ours[-1]:,.0f}/s, bare {bare[-1]:,.0f}/s")
    finally:
        await connection.close()
    return ours, bare


async def _durability(ledger: LedgerUnderTest) -> dict[str, object]:
    connection = await ledger.connect()
    try:
        names = ("fsync", "synchronous_commit", "full_page_writes", "server_version")
        return {name: await connection.fetchval(f"SHOW {name}") for name in names}
    finally:
        await connection.close()
