"""Kafka clients with every setting that matters for money stated, and the record that handlers see."""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import ConsumerRecord

from shared.partitioner import partition_of

#: The largest record we write: a webhook body of 1 MiB and its headers.
RECORD_BYTES_MAX = 1024 * 1024 + 64 * 1024
REQUEST_TIMEOUT_MS = 10_000


NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Record(NamedTuple):
    """A Kafka record as handlers see it."""

    topic: str
    partition: int
    offset: int
    key: str | None
    value: bytes | None
    headers: Mapping[str, str] = NO_HEADERS

    @staticmethod
    def of(raw: "ConsumerRecord[bytes | None, bytes | None]") -> "Record":
        """From aiokafka's record; text that is not UTF-8 is replaced, since keys and headers only route and inform."""
        key, headers = raw.key, raw.headers
        return tuple.__new__(  # `Record(…)` would take three times as long, and there is one for each debit
            Record,
            (
                raw.topic,
                raw.partition,
                raw.offset,
                None if key is None else key.decode("utf-8", "replace"),
                raw.value,
                _text_of(headers) if headers else NO_HEADERS,
            ),
        )


def _text_of(headers: Sequence[tuple[str, bytes | None]]) -> Mapping[str, str]:
    return {name: (value or b"").decode(errors="replace") for name, value in headers}


def kafka_headers(headers: Mapping[str, str]) -> Sequence[tuple[str, bytes]]:
    """Headers in aiokafka's form."""
    return [(name, value.encode()) for name, value in headers.items()]


def make_producer(bootstrap_servers: str, client_id: str, linger_ms: int = 0) -> AIOKafkaProducer:
    """A producer whose acknowledgement means "on all in-sync replicas, once".

    aiokafka's defaults are acks=1 and no idempotence.
    """
    return AIOKafkaProducer(
        bootstrap_servers=bootstrap_servers,
        client_id=client_id,
        acks="all",
        enable_idempotence=True,
        linger_ms=linger_ms,
        max_batch_size=256 * 1024,
        max_request_size=RECORD_BYTES_MAX,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        retry_backoff_ms=100,
        metadata_max_age_ms=30_000,
        partitioner=partition_of,  # pyright: ignore[reportArgumentType]  # any callable of this form will do
    )


def make_consumer(bootstrap_servers: str, client_id: str, group: str) -> AIOKafkaConsumer:
    """A consumer that never commits by itself and starts a new group at the beginning.

    aiokafka's defaults are auto-commit on and `latest`. It asks a broker for one thing at a time: while it waits for
    news of idle partitions, `fetch_max_wait_ms` at most, busy ones get nothing.
    """
    return AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        client_id=client_id,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_poll_interval_ms=300_000,
        session_timeout_ms=10_000,
        heartbeat_interval_ms=1_000,
        rebalance_timeout_ms=30_000,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        fetch_max_wait_ms=100,
        fetch_min_bytes=1,
        fetch_max_bytes=4 * 1024 * 1024,
        max_partition_fetch_bytes=2 * 1024 * 1024,
        metadata_max_age_ms=30_000,
    )


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leaves the group and closes the connections.

    aiokafka ends its own fetches by cancelling them, and one that was in its back-off from a broker that is away lets
    that cancellation out; only one of ours is passed on.
    """
    try:
        await consumer.stop()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
