"""What routes depend on, typed."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request
from sqlalchemy.ext.asyncio import AsyncEngine

from recharge.workflows.client_secrets import ClientSecrets
from shared.auth import Principal, Scope, requires

PAGE_MAX = 100


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What `create_app` stores for the routes. `engine` has the role `recharge_api`."""

    engine: AsyncEngine
    client_secrets: ClientSecrets


async def get_dependencies(request: Request) -> Dependencies:
    """The dependencies of the app that serves this request. `async`: FastAPI runs others in a thread pool."""
    return request.app.state.dependencies


AppDependencies = Annotated[Dependencies, Depends(get_dependencies)]
Reader = Annotated[Principal, Depends(requires(Scope.BILLING_READ))]
Writer = Annotated[Principal, Depends(requires(Scope.BILLING_WRITE))]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
