"""Records how far the profile topic has been read: no card is charged by an outdated profile."""

from recharge.repository.topic_progress import save_progress
from shared.consumer import ConsumerLoop
from shared.process import Job
from shared.runtime import Runtime
from shared.topics import TopicName

PROGRESS_EVERY_S = 1.0


def note_progress_job(runtime: Runtime, loop: ConsumerLoop) -> Job:
    """Every second, records when each partition of the profile topic was last read to its end."""

    async def note_progress() -> None:
        topic = TopicName.BILLING_PROFILE_CHANGED
        caught_up = [(of, partition, at) for (of, partition), at in loop.caught_up_at.items() if of is topic]
        async with runtime.engine.begin() as connection:
            await save_progress(connection, caught_up)

    return Job("note_progress", note_progress, every_s=PROGRESS_EVERY_S)
