"""Asks the service recharge to charge the chosen card now."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import TypeAdapter

from payments.repository import idempotency, profiles, purchases, read_models
from payments.workflows.auto_recharge_settings import load_usable_settings
from payments.workflows.context import WorkflowContext
from payments.workflows.idempotent_requests import IdempotentRequest
from payments.workflows.refusals import AutoRechargeNotSet, NoCardForRecharge, RechargeUnderWay
from shared.events import RechargeRequested
from shared.ids import new_id

#: A request that recharge has not taken up by then has no effect.
REQUEST_EXPIRES_AFTER = timedelta(minutes=10)
TRIGGER_ROUTE = "trigger-now"


@dataclass(frozen=True, slots=True)
class RequestedRecharge:
    """A recharge that was asked for. Stored as the response to the request."""

    request_id: str
    expires_at: datetime


_REQUESTED = TypeAdapter(RequestedRecharge)


async def request_recharge(
    context: WorkflowContext, request: IdempotentRequest, *, requested_by: str
) -> RequestedRecharge:
    """Publishes the request. A repetition under the same key asks nothing again. Raises a `Refusal`."""
    now = context.clock()
    tenant = request.tenant
    event = RechargeRequested(
        tenant=tenant,
        request=new_id("req"),
        requested_by=requested_by,
        requested_at=now,
        expires_at=now + REQUEST_EXPIRES_AFTER,
    )
    requested = RequestedRecharge(event.request, event.expires_at)
    async with context.outbox.transaction(context.engine, tenant) as transaction:
        connection = transaction.connection
        is_new = await idempotency.claim(
            connection, request.key, input_hash=request.input_hash, resource_id=event.request, now=now
        )
        if not is_new:
            stored = await idempotency.find(connection, request.key)
            assert stored is not None and stored.response is not None, "written in one transaction"
            request.check_repeats(stored)
            return _REQUESTED.validate_python(stored.response)
        settings = await load_usable_settings(connection, tenant)
        if settings is None or settings.consent is None:
            raise AutoRechargeNotSet
        if settings.payment_method is None:
            raise NoCardForRecharge
        if await read_models.has_attempt_under_way(connection, tenant):
            raise RechargeUnderWay(may_insist=False)
        await profiles.lock(connection, [tenant])
        await purchases.record_requested_recharge(connection, tenant, event.expires_at)
        await idempotency.store_response(connection, request.key, _REQUESTED.dump_python(requested, mode="json"))
        transaction.publish(event)
    return requested
