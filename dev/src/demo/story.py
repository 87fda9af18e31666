"""The story that `make demo` plays: what the product is for, told by using it."""

import asyncio
from dataclasses import dataclass

from demo.clients import Product, Refused, Tenant
from demo.narration import Narrator, StepFailed, until
from demo.simulator import Simulator
from demo.traffic import purchases
from embedded.stack import Stack

STARTER, STARTER_CREDITS, STARTER_MINOR = "starter", 1_000, 1_000
STORM_PURCHASES = 30
STORM_COPIES = 3


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays."""

    narrator: Narrator
    stack: Stack
    simulator: Simulator
    product: Product
    acme: Tenant
    borealis: Tenant
    crowd: list[Tenant]


async def play(cast: Cast) -> None:
    """Plays every chapter; raises `StepFailed` at the first thing that does not come true."""
    await _buy_and_save_the_card(cast)
    await _recharge_by_itself(cast)
    await _a_declined_card(cast)
    await _a_lost_webhook(cast)
    await _a_storm_of_webhooks(cast)
    await _a_stranger(cast)


async def _buy_and_save_the_card(cast: Cast) -> None:
    narrator, acme = cast.narrator, cast.acme
    narrator.chapter("A tenant buys credits")
    async with narrator.step("acme buys the starter package with 4242 and saves it") as step:
        purchase = await acme.buy(STARTER, save_card=True)
        step.result = f"{purchase['amountMinor'] / 100:.2f} {purchase['currency'].upper()} paid at Stripe"
    async with narrator.step("webhook → gateway → Kafka → ledger") as step:
        await until(lambda: _has(acme, STARTER_CREDITS), "the credits of the purchase")
        step.result = f"balance {await acme.available():,} credits"
    async with narrator.step("the saved card is on acme's billing page") as step:
        await until(lambda: _has_default_card(acme), "the saved card")
        card = (await acme.cards())[0]
        step.result = f"{card['brand']} •••• {card['last4']}, default"


async def _recharge_by_itself(cast: Cast) -> None:
    narrator, acme = cast.narrator, cast.acme
    narrator.chapter("The balance never runs dry")
    async with narrator.step("acme turns auto-recharge on and consents") as step:
        await acme.set_auto_recharge(threshold_credits=500, amount_minor=STARTER_MINOR, monthly_cap_minor=3_000)
        step.result = "below 500: up to 10.00, at most 30.00 USD a month"
    async with narrator.step("the product spends until 400 credits are left") as step:
        for _ in range(6):
            await cast.product.debit(acme.name, 100)
        step.result = "6 debits of 100 credits"
    async with narrator.step("recharge charges the saved card, the credits arrive") as step:
        await until(lambda: _has(acme, 400 + STARTER_CREDITS), "the credits of the recharge")
        await until(lambda: _newest_attempt_is(acme, "credited"), "the attempt closed by its credits")
        step.result = f"balance {await acme.available():,} credits"


async def _a_declined_card(cast: Cast) -> None:
    narrator, borealis = cast.narrator, cast.borealis
    narrator.chapter("A card is declined")
    async with narrator.step("borealis buys, then saves a card that will be declined") as step:
        await borealis.buy(STARTER)
        await borealis.save_card("pm_card_chargeCustomerFail")
        await until(lambda: _has(borealis, STARTER_CREDITS), "the credits of the purchase")
        await until(lambda: _has_default_card(borealis), "the saved card")
        await borealis.set_auto_recharge(threshold_credits=500, amount_minor=STARTER_MINOR, monthly_cap_minor=3_000)
        step.result = f"balance {await borealis.available():,} credits"
    async with narrator.step("the product spends 600: the card is tried once, and waits") as step:
        await cast.product.debit(borealis.name, 600)
        await until(lambda: _newest_attempt_is(borealis, "retry_scheduled"), "the retry of the declined card")
        attempt = (await borealis.attempts())[0]
        step.result = f"{attempt['state']}: {attempt['reason']}, nothing charged"
        if await borealis.available() != 400:
            raise StepFailed("a declined card must not change the balance")


async def _a_lost_webhook(cast: Cast) -> None:
    narrator, acme = cast.narrator, cast.acme
    narrator.chapter("A webhook is lost")
    before = await acme.available()
    async with narrator.step("acme buys again; Stripe's webhook never arrives") as step:
        await cast.simulator.lose_webhooks("payment_intent.succeeded")
        await acme.buy(STARTER)
        await cast.simulator.settle_webhooks()
        if await acme.available() != before:
            raise StepFailed("the webhook was to be lost")
        step.result = f"paid, but the balance is still {before:,}"
    async with narrator.step("the backfill asks Stripe what it could not deliver") as step:
        await asyncio.to_thread(cast.stack.run, "webhook_gateway", "backfill", "--once")
        await until(lambda: _has(acme, before + STARTER_CREDITS), "the credits of the lost webhook")
        step.result = f"healed: balance {await acme.available():,} credits"


async def _a_storm_of_webhooks(cast: Cast) -> None:
    narrator = cast.narrator
    narrator.chapter("Webhooks come late, three times each, in the wrong order")
    async with narrator.step(f"{STORM_PURCHASES} purchases while all webhooks are held back") as step:
        await cast.simulator.hold_webhooks()
        await purchases(cast.crowd, STORM_PURCHASES, STARTER)
        step.result = f"{len(cast.crowd)} tenants, {STORM_PURCHASES} charges at Stripe, 0 credits yet"
    async with narrator.step("the storm") as step:
        sent = await cast.simulator.release_webhooks(copies=STORM_COPIES, seed=7)
        await cast.simulator.settle_webhooks()
        wanted = STORM_PURCHASES // len(cast.crowd) * STARTER_CREDITS
        for tenant in cast.crowd:
            await until(lambda tenant=tenant: _has(tenant, wanted), f"{tenant.name}'s credits, each once")
        step.result = f"{sent} deliveries, each tenant has exactly {wanted:,} credits"


async def _a_stranger(cast: Cast) -> None:
    narrator = cast.narrator
    narrator.chapter("A tenant sees and spends only its own")
    async with narrator.step("acme tries borealis's card, and its credits") as step:
        card = (await cast.borealis.cards())[0]
        refusals: list[int] = []
        purchase = await cast.acme.create_purchase(STARTER)
        for attempt in (
            cast.acme.confirm_with_saved_card(purchase["purchaseId"], card["paymentMethodId"]),
            cast.acme.debit_other_tenant(cast.borealis.name, 1),
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
