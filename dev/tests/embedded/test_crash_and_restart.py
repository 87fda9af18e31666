"""A killed server comes back on its port, with what it had acknowledged."""

from pathlib import Path

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from embedded.kafka import Kafka
from embedded.postgres import Postgres
from embedded.servers import in_thread


def test_postgres_keeps_its_durability_on_and_comes_back_with_what_was_committed(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres", tmp_path / "postgres.log")
    before = postgres.start()
    postgres.server.execute("CREATE TABLE kept (n int); INSERT INTO kept SELECT generate_series(1, 1000)")
    durability = ("fsync", "synchronous_commit", "full_page_writes")
    assert [postgres.server.execute(f"SHOW {name}") for name in durability] == ["on", "on", "on"]
    pid = postgres.process.pid

    async def write_and_be_killed() -> None:
        connection = await asyncpg.connect(before.url())
        await connection.execute("BEGIN; INSERT INTO kept VALUES (1001)")
        postgres.kill()
        connection.terminate()

    in_thread(write_and_be_killed)
    assert not postgres.is_running

    assert postgres.start() == before
    assert postgres.process.pid != pid
    assert postgres.server.execute("SELECT count(*) FROM kept") == "1000"
    postgres.close()


def test_kafka_comes_back_with_what_was_acknowledged(tmp_path: Path) -> None:
    kafka = Kafka(tmp_path / "kafka", tmp_path / "kafka.log")
    before = kafka.start()
    in_thread(lambda: _send(before.bootstrap_servers))
    kafka.kill()
    assert kafka.start() == before
    assert in_thread(lambda: _first_value(before.bootstrap_servers)) == b"kept"
    kafka.close()


async def _send(bootstrap_servers: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all") as producer:
        await producer.send_and_wait("kept", b"kept")


async def _first_value(bootstrap_servers: str) -> bytes | None:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition("kept", 0)])
    record = await consumer.getone()
    await consumer.stop()
    return record.value
