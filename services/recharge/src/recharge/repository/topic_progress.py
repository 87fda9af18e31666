"""When each partition of a topic was last read to its end."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.repository.rows import write_rows
from shared.topics import TopicName

_SAVE_PROGRESS = text("""
    INSERT INTO topic_progress AS mine (topic, partition, caught_up_at)
    SELECT topic, partition, caught_up_at
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new (topic text, partition int, caught_up_at timestamptz)
    ORDER BY topic, partition
    ON CONFLICT (topic, partition) DO UPDATE SET caught_up_at = GREATEST(mine.caught_up_at, excluded.caught_up_at)
""")


async def save_progress(connection: AsyncConnection, caught_up: Iterable[tuple[TopicName, int, datetime]]) -> None:
    """Records when each partition was last read to its end."""
    rows = [{"topic": topic, "partition": partition, "caught_up_at": at} for topic, partition, at in caught_up]
    await write_rows(connection, _SAVE_PROGRESS, rows)
