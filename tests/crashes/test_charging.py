"""When a card could be charged twice: Stripe has charged it, and recharge does not know the outcome.

Webhooks are held back until recharge has found the outcome by itself. Otherwise a webhook ends the attempt, and the
repeated call is never made.
"""

import asyncio

import pytest

from demo.steps import until
from demo.workload import PACKAGE_CREDITS, enable_auto_recharge
from embedded.stack import RECHARGE_WORKER

CHARGES = ("POST", "/v1/payment_intents")
LISTS = ("GET", "/v1/payment_intents")


async def _about_to_recharge(flow):
    """A tenant whose next debit causes a recharge. Webhooks are held back from here on."""
    tenant = flow.tenant("drained")
    await enable_auto_recharge(tenant)

    async def has_bought() -> bool:
        return await tenant.available() == PACKAGE_CREDITS

    await until(has_bought, "the credits of the first purchase")
    assert await flow.simulator.wait_for_webhooks()
    await flow.simulator.hold_webhooks()
    await flow.simulator.forget_requests()
    return tenant


async def _requests(flow, kind: tuple[str, str]) -> list[dict]:
    return [each for each in await flow.simulator.requests() if (each["method"], each["path"]) == kind]


async def _calls(flow, attempt: str) -> list[dict]:
    """The calls that could have charged for this attempt, oldest first."""
    return [each for each in await _requests(flow, CHARGES) if (each["idempotency_key"] or "").startswith(attempt)]


async def _charges(flow, tenant) -> list[dict]:
    charges = (await flow.simulator.books())["charges"]
    return [each for each in charges if each["metadata"].get("tenant") == tenant.name and "attempt" in each["metadata"]]


async def _attempt(tenant) -> dict:
    [attempt] = await tenant.attempts()
    return attempt


async def _reconciled_without_a_webhook(flow, tenant, lists: int) -> None:
    """Recharge has repeated the call under the same key, and read Stripe's list if that did not show the outcome."""
    attempt = (await _attempt(tenant))["attempt"]

    async def is_known() -> bool:
        return (await _attempt(tenant))["state"] == "charged"

    await until(is_known, "the charge in recharge's state", timeout_s=60)
    first, *again = await _calls(flow, attempt)
    assert not first["replayed"]
    assert [call["replayed"] for call in again] == [True]
    assert again[0]["idempotency_key"] == first["idempotency_key"]
    assert len(await _requests(flow, LISTS)) == lists
    assert len(await _charges(flow, tenant)) == 1
    assert await tenant.available() == PACKAGE_CREDITS - 600, "its webhook has not come yet"


async def _recharged_once(flow, tenant) -> None:
    """Once the webhook comes, the attempt closes, with one charge and no further call."""
    calls = len(await _calls(flow, (await _attempt(tenant))["attempt"]))
    await flow.simulator.release_webhooks()

    async def is_credited() -> bool:
        return (await _attempt(tenant))["state"] == "credited"

    await until(is_credited, "the credits of the recharge", timeout_s=60)
    assert await flow.simulator.wait_for_webhooks()
    report = await flow.check_invariants()
    assert report.violations == []
    await flow.check_ledger()
    assert await tenant.available() == PACKAGE_CREDITS - 600 + PACKAGE_CREDITS
    attempt = await _attempt(tenant)
    assert attempt["state"] == "credited"
    assert len(await _calls(flow, attempt["attempt"])) == calls
    assert len(await _charges(flow, tenant)) == 1


async def test_recharge_killed_between_stripes_answer_and_its_commit_charges_once(flow, tmp_path) -> None:
    tenant = await _about_to_recharge(flow)
    log = tmp_path / "fault-points"
    worker = flow.stack.processes[RECHARGE_WORKER.name]
    plain_env = dict(worker.env)
    worker.stop()
    worker.env = plain_env | {"FAULT_POINTS": "recharge.stripe_answered=kill@1", "FAULT_POINTS_LOG": str(log)}
    await asyncio.to_thread(worker.start)
    worker.env = plain_env

    await flow.product.debit(tenant.name, 600)
    assert await asyncio.to_thread(worker.process.wait, 30.0) == 128 + 9
    assert log.read_text().split() == ["recharge.stripe_answered"]
    assert len(await _charges(flow, tenant)) == 1
    worker.stop()
    lease_runs_out = f"UPDATE attempt SET next_at = now() WHERE tenant_id = '{tenant.name}'"
    await asyncio.to_thread(flow.stack.postgres_server.execute, lease_runs_out, "recharge")
    await asyncio.to_thread(worker.start)

    await _reconciled_without_a_webhook(flow, tenant, lists=0)
    await _recharged_once(flow, tenant)


@pytest.mark.parametrize(("fault", "lists"), [("error_after", 1), ("drop_answer", 0)])
async def test_an_attempt_whose_charge_succeeded_without_an_answer_charges_once(flow, fault: str, lists: int) -> None:
    tenant = await _about_to_recharge(flow)
    await flow.simulator.fault(fault, "/v1/payment_intents", metadata={"tenant": tenant.name})
    await flow.product.debit(tenant.name, 600)

    async def has_charged() -> bool:
        return bool(await tenant.attempts()) and bool(await _charges(flow, tenant))

    await until(has_charged, "the charge whose answer is lost")
    await _reconciled_without_a_webhook(flow, tenant, lists)
    await _recharged_once(flow, tenant)
