"""From a low balance to credits, on real PostgreSQL and the Stripe simulator."""

from recharge_house import House


async def test_a_low_balance_is_charged_once_and_credited(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=100)
    assert await house.last_reason(tenant) == "above_threshold"
    await house.balance(tenant, 49)
    await house.work()
    assert [charge["amount_minor"] for charge in house.charges(tenant)] == [4_500]
    assert (await house.attempt(tenant))["state"] == "charged"
    await house.balance(tenant, 20)
    await house.work()
    await house.credit(tenant)
    await house.work()
    assert house.published.states(tenant) == ["reserved", "charging", "charged", "credited"]
    assert len(house.charges(tenant)) == 1
    assert await house.last_reason(tenant) == "above_threshold"
