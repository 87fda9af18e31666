"""How a route has its commands committed: in a group with those of others."""

from collections.abc import Sequence

from fastapi import Request

from ledger.core.commands import Command, Outcome
from ledger.group_commit import GroupCommit, TooManyWaiting
from shared.problems import Problem


async def commit(request: Request, commands: Sequence[Command]) -> Sequence[Outcome]:
    """An outcome for each command, once they are committed; a Problem 503 where too many wait."""
    groups: GroupCommit = request.app.state.groups
    try:
        return await groups.submit(commands)
    except TooManyWaiting as error:
        raise Problem(
            503, "overloaded", "Too many requests are waiting. Repeat with the same reference.", {"Retry-After": "1"}
        ) from error
