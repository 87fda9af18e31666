"""What routes depend on: the caller, and what the process has opened."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.core.commands import Command, Outcome
from ledger.workflows.group_commit import GroupCommit, TooManyWaiting
from shared.auth import Principal, Scope, requires
from shared.problems import Problem

Reader = Annotated[Principal, Depends(requires(Scope.BILLING_READ))]
Debitor = Annotated[Principal, Depends(requires(Scope.CREDITS_DEBIT, Scope.CREDITS_DEBIT_ANY))]
Operator = Annotated[Principal, Depends(requires(Scope.OPERATOR))]


@dataclass(frozen=True, slots=True)
class Dependencies:
    """`api_engine` has the role `ledger_api`, which sees the rows of one tenant, and `worker_engine` the role
    `ledger_worker`."""

    api_engine: AsyncEngine
    worker_engine: AsyncEngine
    groups: GroupCommit

    async def commit(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        """Commits the commands in a group with those of other requests; an outcome for each. Raises a Problem 503 if
        too many wait."""
        try:
            return await self.groups.submit(commands)
        except TooManyWaiting as error:
            raise Problem(
                503, "overloaded", "Too many requests are waiting. Repeat with the same reference.",
                {"Retry-After": "1"},
            ) from error  # fmt: skip


def dependencies_of(request: Request) -> Dependencies:
    """For the routes of debits: a FastAPI dependency takes 18 µs, which is 3 % of a debit. Other routes take
    `AppDependencies`."""
    return request.app.state.dependencies


async def get_dependencies(request: Request) -> Dependencies:
    """The dependencies of the app that serves this request. `async`: FastAPI runs others in a thread pool."""
    return dependencies_of(request)


AppDependencies = Annotated[Dependencies, Depends(get_dependencies)]


def debited_tenant(principal: Principal, named: str | None) -> str:
    """Whose credits the caller may use: a product's token names a tenant, any other has its own."""
    if Scope.CREDITS_DEBIT_ANY in principal.scopes and principal.tenant is None:
        if named is None:
            raise Problem(422, "tenant_missing", "This token serves every tenant: name one in `tenantId`.")
        return named
    if named is not None and named != principal.own_tenant:
        raise Problem(403, "foreign_tenant", "This token debits its own tenant only. Leave `tenantId` out.")
    return principal.own_tenant
