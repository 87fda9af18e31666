"""`python -m webhook_gateway backfill --once`: one run of the backfill."""

import asyncio

from webhook_gateway.connections import open_connections
from webhook_gateway.event_log import open_event_log
from webhook_gateway.jobs.backfill import RUN_TIMEOUT_S, Backfill
from webhook_gateway.settings import BackfillSettings


async def run(settings: BackfillSettings, _stopping: asyncio.Event) -> None:
    """Runs the job once. Raises what stopped it: one of the job's `EXPECTED_ERRORS`, unless something is broken."""
    async with (
        open_connections(settings) as connections,
        asyncio.timeout(RUN_TIMEOUT_S),
        open_event_log(settings.kafka_bootstrap_servers, settings.topic_prefix) as event_log,
    ):
        await Backfill(connections.stripe, connections.publisher).run(event_log)
