"""Decides again about tenants for whom time alone may have changed the decision."""

from recharge.repository.decisions import due_tenants
from recharge.repository.locks import lock_tenants
from recharge.workflows.decide_tenants import decide_tenants
from shared.process import Job
from shared.runtime import Runtime

DECIDE_AGAIN_EVERY_S = 1.0
TENANTS_AT_ONCE_MAX = 500


def decide_again_job(runtime: Runtime) -> Job:
    """Every second, decides about the tenants that are due, and about those with a waiting request."""

    async def decide_again() -> None:
        async with runtime.outbox.transaction(runtime.engine) as transaction:
            now = transaction.now
            due = await due_tenants(transaction.connection, now, TENANTS_AT_ONCE_MAX)
            await lock_tenants(transaction.connection, due)
            await decide_tenants(transaction, due, now)

    return Job("decide_again", decide_again, every_s=DECIDE_AGAIN_EVERY_S)
