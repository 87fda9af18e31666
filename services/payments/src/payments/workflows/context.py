"""What every workflow works with."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from payments.stripe_gateway import StripeGateway
from shared.outbox import Outbox


@dataclass(frozen=True, slots=True)
class WorkflowContext:
    """`engine` has the API's role for requests, which sees one tenant at a time, and the worker's role for jobs."""

    engine: AsyncEngine
    outbox: Outbox
    stripe: StripeGateway
    clock: Callable[[], datetime]
