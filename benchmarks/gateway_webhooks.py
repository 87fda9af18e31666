"""gateway.webhooks: signed webhooks a second that Kafka has acknowledged, against the bare gateway.

The gateway and the baseline (`bare_gateway.py`) share one Kafka and are loaded alternately, so that other work on the
machine affects both alike. The ratio is the median of the pairs' ratios.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks.measurement import Measurement, RunOptions
from embedded.environment import inherited
from embedded.http_process import HttpProcess
from embedded.kafka import Kafka
from embedded.paths import repository_root
from embedded.servers import in_thread
from load.webhooks import PATH
from shared.topic_admin import create_topics
from shared.topics import BY_NAME, TopicName

RATIO_MIN = 0.8
CONNECTIONS = 64
BODY_BYTES = 1_400
BARE_TOPIC = "bare"
SECRET = "whsec_benchmark_only"


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one run."""

    per_s: float
    p50_ms: float
    p99_ms: float


def run(options: RunOptions) -> Sequence[Measurement]:
    """Pairs of runs, ours and the baseline; which comes first alternates."""
    pairs, seconds = (1, 1.0) if options.quick else (15, 2.0)
    ours: list[Run] = []
    bare: list[Run] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="prepaid-bench-")))
        kafka = stack.enter_context(closing(Kafka(directory / "kafka", options.log_dir / "kafka.log")))
        servers = kafka.start().bootstrap_servers
        in_thread(lambda: create_topics(servers))
        in_thread(lambda: _create_bare_topic(servers))
        gateway = HttpProcess(
            "gateway",
            ["webhook_gateway", "app"],
            log_file=options.log_dir / "gateway.log",
            cwd=directory,
            env={
                **inherited(),
                "HTTP_PORT": "{port}",
                "KAFKA_BOOTSTRAP_SERVERS": servers,
                "STRIPE_WEBHOOK_SECRET": SECRET,
            },
        )
        limit = HttpProcess(
            "bare-gateway",
            ["benchmarks.bare_gateway", "{port}", servers, BARE_TOPIC, SECRET],
            log_file=options.log_dir / "bare-gateway.log",
            cwd=repository_root(),
            env=inherited(),
            ready_path="/",
        )
        for process in (gateway, limit):
            stack.enter_context(closing(process))
            process.start()
        for pair in range(pairs):
            for process, runs in ((gateway, ours), (limit, bare)) if pair % 2 else ((limit, bare), (gateway, ours)):
                runs.append(_load(process, seconds))
            options.say(f"pair {pair + 1}: {ours[-1].per_s:,.0f}/s, bare {bare[-1].per_s:,.0f}/s")
    settings: dict[str, object] = {
        "connections": CONNECTIONS,
        "body_bytes": BODY_BYTES,
        "pairs": pairs,
        "seconds": seconds,
        "cpus": os.cpu_count(),
        "uvicorn": version("uvicorn"),
        "granian": version("granian"),
        "aiokafka": version("aiokafka"),
    }
    return [
        Measurement(
            "gateway.webhooks",
            statistics.median(each.per_s for each in ours),
            "1/s",
            limit=statistics.median(each.per_s for each in bare),
            ratio=statistics.median(our.per_s / its.per_s for our, its in zip(ours, bare, strict=True)),
            ratio_min=None if options.quick else RATIO_MIN,
            settings=settings,
        ),
        Measurement(
            "gateway.webhooks.p50",
            statistics.median(each.p50_ms for each in ours),
            "ms",
            limit=statistics.median(each.p50_ms for each in bare),
        ),
        Measurement(
            "gateway.webhooks.p99",
            statistics.median(each.p99_ms for each in ours),
            "ms",
            limit=statistics.median(each.p99_ms for each in bare),
        ),
    ]


def _load(process: HttpProcess, seconds: float) -> Run:
    """The load generator's answer; CalledProcessError if anything but 200 was answered."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "load.http_load", f"{process.url}{PATH}", "--secret", SECRET),
            *("--connections", str(CONNECTIONS), "--body-bytes", str(BODY_BYTES), "--seconds", str(seconds)),
        ],
        stdout=subprocess.PIPE,
        timeout=seconds + 60,
        check=True,
    )
    result = json.loads(done.stdout)
    return Run(result["per_s"], result["p50_ms"], result["p99_ms"])


async def _create_bare_topic(bootstrap_servers: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        partitions = BY_NAME[TopicName.STRIPE_EVENTS].partitions
        await admin.create_topics([NewTopic(BARE_TOPIC, num_partitions=partitions, replication_factor=1)])
    finally:
        await admin.close()
