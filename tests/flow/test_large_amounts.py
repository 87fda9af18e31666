"""Large amounts, in a currency whose unit is worth little: 1,500,000 rupiah from the purchase to the ledger."""

import asyncio

from demo.steps import until

#: https://docs.stripe.com/currencies: IDR has two decimals, and takes up to twelve digits.
PRICE_MINOR, CREDITS = 150_000_000, 10_000


async def test_a_purchase_of_a_million_and_a_half_rupiah_is_credited(flow) -> None:
    sql = (
        "INSERT INTO package (package_id, version, name, credits, price_minor, currency, active) "
        f"VALUES ('large-idr', 1, 'Large', {CREDITS}, {PRICE_MINOR}, 'idr', true)"
    )
    await asyncio.to_thread(flow.stack.postgres_server.execute, sql, "payments")
    buyer = flow.tenant("buyer")
    purchase = await buyer.create_purchase("large-idr")
    assert (purchase["amountMinor"], purchase["currency"]) == (PRICE_MINOR, "idr")
    await buyer.pay_in_browser(purchase)

    async def is_credited() -> bool:
        return await buyer.available() == CREDITS

    await until(is_credited, "the credits")
    row = await asyncio.to_thread(
        flow.stack.postgres_server.execute,
        f"SELECT amount_minor, currency, credits FROM transfer WHERE tenant_id = '{buyer.name}'",
        "ledger",
    )
    assert row == f"{PRICE_MINOR}|idr|{CREDITS}"
    await flow.check_ledger()
