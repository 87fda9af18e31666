"""The moment at which a card could be charged twice: Stripe has charged, and we do not know it yet."""

import asyncio

import pytest

from demo.market import PACKAGE_CREDITS, open_account
from demo.narration import until
from embedded.stack import RECHARGE_WORKER


async def _drained(flow):
    """A tenant whose next debit makes its card be charged."""
    tenant = flow.tenant("drained")
    await open_account(tenant)

    async def has_bought() -> bool:
        return await tenant.available() == PACKAGE_CREDITS

    await until(has_bought, "the credits of the first purchase")
    return tenant


async def _recharged_once(flow, tenant) -> None:
    async def is_credited() -> bool:
        attempts = await tenant.attempts()
        return bool(attempts) and attempts[0]["state"] == "credited"

    await until(is_credited, "the credits of the recharge", timeout_s=60)
    charges = [
        charge
        for charge in (await flow.simulator.books())["charges"]
        if charge["metadata"].get("tenant") == tenant.name and "attempt" in charge["metadata"]
    ]
    assert len(charges) == 1
    assert len(await tenant.attempts()) == 1
    assert await tenant.available() == PACKAGE_CREDITS - 600 + PACKAGE_CREDITS
    verdict = await flow.verdict()
    assert verdict.wrong == []


async def test_recharge_killed_after_stripe_charged_and_before_it_wrote_that_down_charges_once(flow, tmp_path) -> None:
    tenant = await _drained(flow)
    log = tmp_path / "fault-points"
    worker = flow.stack.doors[RECHARGE_WORKER.name]
    calm = dict(worker.env)
    worker.stop()
    worker.env = calm | {"FAULT_POINTS": "recharge.stripe_answered=kill@1", "FAULT_POINTS_LOG": str(log)}
    await asyncio.to_thread(worker.start)
    worker.env = calm

    await flow.product.debit(tenant.name, 600)
    assert await asyncio.to_thread(worker.process.wait, 30.0) == 128 + 9
    assert log.read_text().split() == ["recharge.stripe_answered"]
    worker.stop()
    await asyncio.to_thread(worker.start)

    await _recharged_once(flow, tenant)


@pytest.mark.parametrize("fault", ["error_after", "drop_answer"])
async def test_one_charge_when_stripe_charged_and_its_answer_was(flow, fault: str) -> None:
    tenant = await _drained(flow)
    await flow.simulator.fault(fault, "/v1/payment_intents", metadata={"tenant": tenant.name})
    await flow.product.debit(tenant.name, 600)
    await _recharged_once(flow, tenant)
