"""The scenario of `make demo`: what the product is for, shown by using it."""

import asyncio
from dataclasses import dataclass

from demo.clients import Product, Refused, Tenant
from demo.simulator import Simulator
from demo.steps import StepFailed, StepPrinter, until
from demo.traffic import purchases
from embedded.stack import Stack

STARTER, STARTER_CREDITS, STARTER_MINOR = "starter", 1_000, 1_000
BURST_PURCHASES = 30
WEBHOOK_COPIES = 3


@dataclass(frozen=True, slots=True)
class Scenario:
    """The running stack, and the tenants that use it."""

    steps: StepPrinter
    stack: Stack
    simulator: Simulator
    product: Product
    acme: Tenant
    borealis: Tenant
    customers: list[Tenant]


async def run_scenario(scenario: Scenario) -> None:
    """Runs every part; raises `StepFailed` at the first step whose result does not come."""
    await _buy_and_save_the_card(scenario)
    await _recharge_automatically(scenario)
    await _a_declined_card(scenario)
    await _a_lost_webhook(scenario)
    await _shuffled_and_repeated_webhooks(scenario)
    await _another_tenants_card_and_credits(scenario)


async def _buy_and_save_the_card(scenario: Scenario) -> None:
    steps, acme = scenario.steps, scenario.acme
    steps.section("A tenant buys credits")
    async with steps.step("acme buys the starter package with 4242 and saves it") as step:
        purchase = await acme.buy(STARTER, save_card=True)
        step.result = f"{purchase['amountMinor'] / 100:.2f} {purchase['currency'].upper()} paid at Stripe"
    async with steps.step("webhook → gateway → Kafka → ledger") as step:
        await until(lambda: _has(acme, STARTER_CREDITS), "the credits of the purchase")
        step.result = f"balance {await acme.available():,} credits"
    async with steps.step("the saved card is on acme's billing page") as step:
        await until(lambda: _has_default_card(acme), "the saved card")
        card = (await acme.cards())[0]
        step.result = f"{card['brand']} •••• {card['last4']}, default"


async def _recharge_automatically(scenario: Scenario) -> None:
    steps, acme = scenario.steps, scenario.acme
    steps.section("The balance is recharged automatically")
    async with steps.step("acme turns auto-recharge on and consents") as step:
        await acme.set_auto_recharge(threshold_credits=500, amount_minor=STARTER_MINOR, monthly_cap_minor=3_000)
        step.result = "below 500: up to 10.00, at most 30.00 USD a month"
    async with steps.step("the product spends until 400 credits are left") as step:
        for _ in range(6):
            await scenario.product.debit(acme.name, 100)
        step.result = "6 debits of 100 credits"
    async with steps.step("recharge charges the saved card, the credits arrive") as step:
        await until(lambda: _has(acme, 400 + STARTER_CREDITS), "the credits of the recharge")
        await until(lambda: _newest_attempt_is(acme, "credited"), "the attempt closed by its credits")
        step.result = f"balance {await acme.available():,} credits"


async def _a_declined_card(scenario: Scenario) -> None:
    steps, borealis = scenario.steps, scenario.borealis
    steps.section("A card is declined")
    async with steps.step("borealis buys, then saves a card that will be declined") as step:
        await borealis.buy(STARTER)
        await borealis.save_card("pm_card_chargeCustomerFail")
        await until(lambda: _has(borealis, STARTER_CREDITS), "the credits of the purchase")
        await until(lambda: _has_default_card(borealis), "the saved card")
        await borealis.set_auto_recharge(threshold_credits=500, amount_minor=STARTER_MINOR, monthly_cap_minor=3_000)
        step.result = f"balance {await borealis.available():,} credits"
    async with steps.step("the product spends 600: the card is tried once, and waits") as step:
        await scenario.product.debit(borealis.name, 600)
        await until(lambda: _newest_attempt_is(borealis, "retry_scheduled"), "the retry of the declined card")
        attempt = (await borealis.attempts())[0]
        step.result = f"{attempt['state']}: {attempt['reason']}, nothing charged"
        if await borealis.available() != 400:
            raise StepFailed("a declined card must not change the balance")


async def _a_lost_webhook(scenario: Scenario) -> None:
    steps, acme = scenario.steps, scenario.acme
    steps.section("A webhook is lost")
    before = await acme.available()
    async with steps.step("acme buys again; Stripe's webhook never arrives") as step:
        await scenario.simulator.lose_webhooks("payment_intent.succeeded")
        await acme.buy(STARTER)
        await scenario.simulator.wait_for_webhooks()
        if await acme.available() != before:
            raise StepFailed("the webhook was to be lost")
        step.result = f"paid, but the balance is still {before:,}"
    async with steps.step("the backfill asks Stripe what it could not deliver") as step:
        await asyncio.to_thread(scenario.stack.run, "webhook_gateway", "backfill", "--once")
        await until(lambda: _has(acme, before + STARTER_CREDITS), "the credits of the lost webhook")
        step.result = f"healed: balance {await acme.available():,} credits"


async def _shuffled_and_repeated_webhooks(scenario: Scenario) -> None:
    steps = scenario.steps
    steps.section("Webhooks come late, three times each, in the wrong order")
    async with steps.step(f"{BURST_PURCHASES} purchases while all webhooks are held back") as step:
        await scenario.simulator.hold_webhooks()
        await purchases(scenario.customers, BURST_PURCHASES, STARTER)
        step.result = f"{len(scenario.customers)} tenants, {BURST_PURCHASES} charges at Stripe, 0 credits yet"
    async with steps.step("all webhooks are sent, shuffled") as step:
        sent = await scenario.simulator.release_webhooks(copies=WEBHOOK_COPIES, seed=7)
        await scenario.simulator.wait_for_webhooks()
        wanted = BURST_PURCHASES // len(scenario.customers) * STARTER_CREDITS
        for tenant in scenario.customers:
            await until(lambda tenant=tenant: _has(tenant, wanted), f"{tenant.name}'s credits, each once")
        step.result = f"{sent} deliveries, each tenant has exactly {wanted:,} credits"


async def _another_tenants_card_and_credits(scenario: Scenario) -> None:
    steps = scenario.steps
    steps.section("A tenant sees and spends only its own")
    async with steps.step("acme tries borealis's card, and its credits") as step:
        card = (await scenario.borealis.cards())[0]
        refusals: list[int] = []
        purchase = await scenario.acme.create_purchase(STARTER)
        for attempt in (
            scenario.acme.confirm_with_saved_card(purchase["purchaseId"], card["paymentMethodId"]),
            scenario.acme.debit_other_tenant(scenario.borealis.name, 1),
        ):
            try:
                await attempt
            except Refused as refused:
                refusals.append(refused.status)
        if len(refusals) != 2:
            raise StepFailed("another tenant's card and credits must be refused")
        step.result = f"refused: {', '.join(str(status) for status in refusals)}"


async def _has(tenant: Tenant, credits: int) -> bool:
    return await tenant.available() == credits


async def _has_default_card(tenant: Tenant) -> bool:
    return any(card["isDefault"] for card in await tenant.cards())


async def _newest_attempt_is(tenant: Tenant, state: str) -> bool:
    attempts = await tenant.attempts()
    return bool(attempts) and attempts[0]["state"] == state
