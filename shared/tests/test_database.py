"""Connections that PostgreSQL has closed cost nobody a request."""

import asyncio

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.servers import PostgresServer
from load.waiting import until


async def test_connections_closed_while_they_lay_in_the_pool_are_replaced_before_anybody_uses_them(
    postgres_server: PostgresServer, engine: AsyncEngine
) -> None:
    async def backend() -> int:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_sleep(0.05)"))
            return (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()

    before = set(await asyncio.gather(*(backend() for _ in range(3))))
    named = f"pid IN ({', '.join(str(pid) for pid in before)})"
    postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {named}")

    async def are_gone() -> bool:
        count = await asyncio.to_thread(postgres_server.execute, f"SELECT count(*) FROM pg_stat_activity WHERE {named}")
        return count == "0"

    await until(are_gone)
    after = set(await asyncio.gather(*(backend() for _ in range(3))))
    assert len(before) == 3
    assert after.isdisjoint(before)
