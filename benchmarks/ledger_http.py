"""ledger.http_debits and ledger.http_batch: debits over HTTP on 64 connections, against the same server with a
constant answer."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from benchmarks.ledger_under_test import ledger_under_test, running
from benchmarks.measurement import Measurement, RunOptions
from embedded.environment import DEVELOPMENT_JWT_SECRET, inherited
from embedded.http_process import HttpProcess
from embedded.paths import repository_root
from shared.auth import Scope, mint_development_token

TENANTS = 1_000
CONNECTIONS, BATCH, BATCH_CONNECTIONS = 64, 100, 8
RATIO_MIN = 0.6
AIM_PER_S, AIM_P99_MS, AIM_BATCH_PER_S = 3_000, 50, 15_000


def run(options: RunOptions) -> Sequence[Measurement]:
    """Pairs of runs, ours and the baseline alternately."""
    pairs, seconds = (1, 1.0) if options.quick else (5, 4.0)
    with ledger_under_test(options) as ledger:
        asyncio.run(ledger.seed(TENANTS))
        bare = HttpProcess(
            "bare-debit-api",
            ["benchmarks.bare_debit_api", "{port}", DEVELOPMENT_JWT_SECRET],
            log_file=options.log_dir / "bare-debit-api.log",
            cwd=repository_root(),
            env=inherited(),
        )
        with running(ledger.process("app")) as api, closing(bare):
            bare.start()
            single = [(_load(api, seconds), _load(bare, seconds)) for _ in _pairs(pairs, options, "single")]
            batches = [
                (_load(api, seconds, BATCH), _load(bare, seconds, BATCH)) for _ in _pairs(pairs, options, "batch")
            ]
    settings: dict[str, object] = {"connections": CONNECTIONS, "pairs": pairs, "seconds": seconds,
                                   "tenants": TENANTS, "cpus": os.cpu_count()}  # fmt: skip
    batched = settings | {"batch": BATCH, "connections": BATCH_CONNECTIONS, "aim_per_s": AIM_BATCH_PER_S}
    return [
        Measurement(
            "ledger.http_debits", _median(our["per_s"] for our, _ in single), "1/s",
            limit=_median(its["per_s"] for _, its in single),
            ratio=_median(our["per_s"] / its["per_s"] for our, its in single),
            ratio_min=None if options.quick else RATIO_MIN, settings={**settings, "aim_per_s": AIM_PER_S},
        ),
        Measurement(
            "ledger.http_debits.p99", _median(our["p99_ms"] for our, _ in single), "ms",
            limit=_median(its["p99_ms"] for _, its in single), settings={**settings, "aim_p99_ms": AIM_P99_MS},
        ),
        Measurement(
            "ledger.http_batch", BATCH * _median(our["per_s"] for our, _ in batches), "debits/s",
            limit=BATCH * _median(its["per_s"] for _, its in batches),
            ratio=_median(our["per_s"] / its["per_s"] for our, its in batches), settings=batched,
        ),
    ]  # fmt: skip


def _pairs(pairs: int, options: RunOptions, label: str) -> Sequence[int]:
    options.say(f"{label}: {pairs} pairs")
    return range(pairs)


def _median(values: Any) -> float:
    return statistics.median(list(values))


def product_token() -> str:
    """A token that debits any tenant, for the length of a benchmark."""
    return mint_development_token(
        DEVELOPMENT_JWT_SECRET, subject="bench", tenant=None, scopes=(Scope.CREDITS_DEBIT_ANY,),
        expires_at=int(time.time()) + 4 * 60 * 60,
    )  # fmt: skip


def _load(process: HttpProcess, seconds: float, batch: int = 1) -> dict[str, Any]:
    """The load generator's answer; CalledProcessError if anything but 200 was answered."""
    connections = CONNECTIONS if batch == 1 else BATCH_CONNECTIONS
    done = subprocess.run(
        [
            *(sys.executable, "-m", "load.debits", process.url, "--token", product_token(), "--batch", str(batch)),
            *("--tenants", str(TENANTS), "--connections", str(connections), "--seconds", str(seconds)),
        ],
        stdout=subprocess.PIPE,
        timeout=seconds + 60,
        check=True,
    )
    return json.loads(done.stdout)
