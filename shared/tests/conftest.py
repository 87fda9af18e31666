"""Fixtures on real PostgreSQL and Kafka: topics, a database with an outbox, and a producer."""

import secrets
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaProducer
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.servers import KafkaServer, PostgresServer
from shared.database import make_engine
from shared.kafka import make_producer
from shared.outbox_tables import outbox_tables
from shared.topic_admin import create_topics

from .consumer_service import Service


@pytest.fixture
async def topic_prefix(kafka_server: KafkaServer) -> str:
    """The prefix of topics that only this test uses."""
    prefix = f"shared-{secrets.token_hex(4)}."
    await create_topics(kafka_server.bootstrap_servers, prefix)
    return prefix


@pytest.fixture
async def engine(postgres_server: PostgresServer) -> AsyncIterator[AsyncEngine]:
    """A database that only this test uses, with the outbox, and with `handled` for what handlers write."""
    name = f"shared_{secrets.token_hex(6)}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    engine = make_engine(postgres_server.url(name), application_name="test")
    metadata = MetaData()
    outbox_tables(metadata)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(
            text("CREATE TABLE handled (n bigint GENERATED ALWAYS AS IDENTITY, name text, by text, partition int)")
        )
        await connection.execute(text("CREATE TABLE balance (key text PRIMARY KEY, version bigint NOT NULL)"))
    yield engine
    await engine.dispose()
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def producer(kafka_server: KafkaServer) -> AsyncIterator[AIOKafkaProducer]:
    producer = make_producer(kafka_server.bootstrap_servers, "test")
    await producer.start()
    yield producer
    await producer.stop()


@pytest.fixture
def service(kafka_server: KafkaServer, topic_prefix: str, engine: AsyncEngine, producer: AIOKafkaProducer) -> Service:
    return Service(kafka_server, topic_prefix, engine, producer)
