"""From a low balance to credits, on real PostgreSQL and the Stripe simulator."""

from recharge_environment import RechargeEnvironment


async def test_a_low_balance_is_charged_once_and_credited(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa", available=100)
    assert await environment.last_reason(tenant) == "above_threshold"
    await environment.balance(tenant, 49)
    await environment.work()
    assert [charge["amount_minor"] for charge in environment.charges(tenant)] == [4_500]
    assert (await environment.attempt(tenant))["state"] == "charged"
    await environment.balance(tenant, 20)
    await environment.work()
    await environment.credit(tenant)
    await environment.work()
    assert environment.published.states(tenant) == ["reserved", "charging", "charged", "credited"]
    assert len(environment.charges(tenant)) == 1
    assert await environment.last_reason(tenant) == "above_threshold"
