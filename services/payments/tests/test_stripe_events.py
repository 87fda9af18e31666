"""The effect of `stripe.events` on cards, purchases and customers, on a real database; duplicated and out of order."""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.environment import DEVELOPMENT_SIGNING_KEY
from payments.handlers import StripeEventHandler
from payments.jobs.sweeper import Sweeper
from payments.repository.profiles import load_billing_profiles
from shared.clock import utc_now
from shared.events import EXAMPLES, BillingProfile, EntryPosted
from shared.kafka import Record
from shared.outbox import Outbox
from shared.poison import Poison
from stripe_simulator.testing import RunningSimulator

Call = Callable[..., Any]
METHODS = "/api/stripe/payment-methods"


async def shown(call: Call, tenant: str = "acme") -> list[tuple[str, int, bool]]:
    listed = (await call(tenant, "GET", METHODS)).json()["paymentMethods"]
    return [(each["paymentMethodId"], each["expYear"], each["isDefault"]) for each in listed]


@pytest.fixture
async def history(
    call: Call, save_card: Call, stripe_account: RunningSimulator, stripe_events: Callable[[], list[dict[str, Any]]]
) -> tuple[str, str, list[dict[str, Any]]]:
    """Two cards of a tenant: one kept and changed twice, one detached; and all events about them, oldest first."""
    client = stripe_account.client()
    kept, detached = await save_card("acme"), await save_card("acme", "pm_card_mastercard")
    for year in (2041, 2042):
        stripe_account.post("/clock/advance", seconds=5)
        client.v1.payment_methods.update(kept, {"card": {"exp_month": 1, "exp_year": year}})
    client.v1.payment_methods.detach(detached)
    return kept, detached, stripe_events()


@pytest.mark.parametrize("seed", range(8))
async def test_card_events_have_the_same_result_in_any_order_and_batches_and_duplicated(
    call: Call,
    deliver: Call,
    rows: Call,
    sweeper: Sweeper,
    history: tuple[str, str, list[dict[str, Any]]],
    seed: int,
) -> None:
    kept, detached, events = history
    await rows("WITH x AS (DELETE FROM card), y AS (DELETE FROM payment_method_lock) SELECT 1")
    await rows("WITH x AS (UPDATE profile SET default_payment_method = NULL) SELECT 1")
    generator = random.Random(seed)
    shuffled = events * 2
    generator.shuffle(shuffled)
    while shuffled:
        size = generator.randint(1, 5)
        await deliver(shuffled[:size])
        shuffled = shuffled[size:]
    await sweeper.sweep_cards()
    cards = await rows("SELECT payment_method, state, exp_year FROM card ORDER BY state")
    assert [tuple(card) for card in cards if card.state == "attached"] == [(kept, "attached", 2042)]
    assert [card.payment_method for card in cards if card.state == "detached"] in ([detached], [])
    listed = await shown(call)
    assert [each[:2] for each in listed] == [(kept, 2042)]


async def test_a_card_detached_before_it_was_known_stays_detached(
    call: Call, deliver: Call, rows: Call, history: tuple[str, str, list[dict[str, Any]]]
) -> None:
    kept, detached, events = history
    await rows("WITH x AS (DELETE FROM card), y AS (DELETE FROM payment_method_lock) SELECT 1")
    for event in reversed(events):
        await deliver([event])
    assert [each[0] for each in await shown(call)] == [kept]
    assert detached not in str(await shown(call))


async def test_concurrent_attached_and_detached_events_leave_the_card_detached(
    worker_engine: AsyncEngine,
    outbox: Outbox,
    deliver: Call,
    rows: Call,
    eventually: Call,
    history: tuple[str, str, list[dict[str, Any]]],
) -> None:
    _kept, detached, events = history
    about = {event["type"]: event for event in events if event["data"]["object"]["id"] == detached}
    for first, second in (("attached", "detached"), ("detached", "attached")):
        await rows("WITH x AS (DELETE FROM card), y AS (DELETE FROM payment_method_lock) SELECT 1")
        handler = StripeEventHandler([DEVELOPMENT_SIGNING_KEY], utc_now)
        value = json.dumps(about[f"payment_method.{first}"]).encode()
        async with outbox.transaction(worker_engine) as transaction:
            await handler.handle(transaction, [Record("stripe.events", 0, 0, None, value)])
            other = asyncio.create_task(deliver([about[f"payment_method.{second}"]]))
            await eventually(lambda: rows("SELECT 1 FROM pg_locks WHERE NOT granted"))
        await other
        states = [row.state for row in await rows("SELECT state FROM card WHERE payment_method = :id", id=detached)]
        assert states == ["detached"]


async def test_a_card_known_only_from_its_setup_intent_is_retrieved_by_the_sweeper(
    call: Call, deliver: Call, rows: Call, sweeper: Sweeper, history: tuple[str, str, list[dict[str, Any]]]
) -> None:
    kept, _detached, events = history
    await rows("WITH x AS (DELETE FROM card), y AS (DELETE FROM payment_method_lock) SELECT 1")
    await rows("WITH x AS (UPDATE profile SET default_payment_method = NULL) SELECT 1")
    await deliver([event for event in events if event["type"] == "setup_intent.succeeded"])
    assert await shown(call) == []
    await sweeper.sweep_cards()
    assert await shown(call) == [(kept, 2042, True)]


async def test_only_events_with_valid_signed_metadata_change_a_purchase(
    buy: Call, call: Call, deliver: Call, rows: Call, stripe_account: RunningSimulator, stripe_events: Call
) -> None:
    bought = await buy("acme", packageId="starter")
    client = stripe_account.client()
    client.v1.payment_intents.confirm(bought["paymentIntentId"], {"payment_method": "pm_card_visa"})
    succeeded = [each for each in stripe_events() if each["type"] == "payment_intent.succeeded"]
    forged = {**succeeded[0], "data": {"object": {**succeeded[0]["data"]["object"]}}}
    forged["data"]["object"]["metadata"] = {**forged["data"]["object"]["metadata"], "tenant": "other"}
    await rows("WITH x AS (UPDATE purchase SET payment_intent = NULL, state = 'created') SELECT 1")
    await deliver([forged, {**succeeded[0], "account": "acct_connected"}])
    assert [row.state for row in await rows("SELECT state FROM purchase")] == ["created"]
    await deliver(succeeded * 2)
    purchase = (await rows("SELECT state, payment_intent FROM purchase"))[0]
    assert tuple(purchase) == ("succeeded", bought["paymentIntentId"])
    items = (await call("acme", "GET", "/api/credits/history")).json()["items"]
    assert [(item["kind"], item["state"], item["credits"]) for item in items] == [("purchase", "succeeded", 1000)]


async def test_the_profile_version_increments_with_each_change_of_purchase_or_card(
    buy: Call, deliver: Call, rows: Call, save_card: Call, stripe_account: RunningSimulator, stripe_events: Call
) -> None:
    async def version() -> int:
        profile = (await rows("SELECT version FROM profile WHERE tenant_id = 'acme'"))[0].version
        marked = (await rows("SELECT max(version) AS v FROM outbox_mark WHERE tenant_id = 'acme'"))[0].v
        assert profile == marked
        return int(profile)

    await save_card("acme")
    saved = await version()
    bought = await buy("acme", packageId="starter")
    created = await version()
    assert created == saved + 1
    stripe_account.client().v1.payment_intents.confirm(bought["paymentIntentId"], {"payment_method": "pm_card_visa"})
    await deliver(stripe_events())
    assert await version() == created + 1
    await deliver(stripe_events())
    assert await version() == created + 1


async def test_a_paid_purchase_stays_in_the_profile_until_its_credits_are_posted(
    buy: Call,
    deliver: Call,
    stripe_account: RunningSimulator,
    stripe_events: Call,
    consume: Call,
    worker_engine: AsyncEngine,
) -> None:
    async def profile() -> BillingProfile:
        async with worker_engine.connect() as connection:
            _version, loaded = (await load_billing_profiles(connection, ["acme"]))["acme"]
        assert isinstance(loaded, BillingProfile)
        return loaded

    bought = await buy("acme", packageId="starter")
    (opened,) = (await profile()).purchases
    assert (opened.purchase, opened.state) == (bought["purchaseId"], "open")
    stripe_account.client().v1.payment_intents.confirm(bought["paymentIntentId"], {"payment_method": "pm_card_visa"})
    await deliver(stripe_events())  # before the ledger's entry
    paid = await profile()
    assert (paid.open_purchases, paid.credited_in_version) == ((bought["purchaseId"],), 0)
    assert [each.state for each in paid.purchases] == ["succeeded"]
    assert paid.purchases[0].since > opened.since
    update = {"reference": bought["paymentIntentId"], "purchase": bought["purchaseId"], "balance_version": 7}
    for _ in range(2):
        await consume(EXAMPLES[EntryPosted].model_copy(update=update))
    credited = await profile()
    assert (credited.open_purchases, credited.credited_in_version) == ((), 7)
    assert credited.version == paid.version + 1


async def test_a_customer_deleted_at_stripe_is_replaced_by_the_next_purchase(
    buy: Call, call: Call, deliver: Call, save_card: Call, stripe_account: RunningSimulator, stripe_events: Call
) -> None:
    await save_card("acme")
    client = stripe_account.client()
    client.v1.customers.delete(client.v1.customers.list().data[0].id)
    await deliver(stripe_events())
    assert await shown(call) == []
    bought = await buy("acme", packageId="starter")
    intent = client.v1.payment_intents.retrieve(bought["paymentIntentId"])
    assert intent.customer == client.v1.customers.list().data[0].id


async def test_the_default_card_of_the_profile_replaces_the_one_at_stripe(
    call: Call, deliver: Call, save_card: Call, sweeper: Sweeper, stripe_account: RunningSimulator, stripe_events: Call
) -> None:
    ours, other = await save_card("acme"), await save_card("acme", "pm_card_mastercard")
    await sweeper.repair_defaults()
    client = stripe_account.client()
    customer = client.v1.customers.list().data[0].id

    def default_at_stripe() -> Any:
        return client.v1.customers.retrieve(customer).to_dict()["invoice_settings"]["default_payment_method"]

    assert default_at_stripe() == ours
    client.v1.customers.update(customer, {"invoice_settings": {"default_payment_method": other}})
    await deliver(stripe_events())
    await sweeper.repair_defaults()
    assert default_at_stripe() == ours
    assert (await call("acme", "POST", f"{METHODS}/{other}/default")).status_code == 204
    await sweeper.repair_defaults()
    assert default_at_stripe() == other
    assert [each[2] for each in await shown(call)] == [True, False]


async def test_a_malformed_event_is_poison_and_an_unknown_type_is_ignored(deliver: Call) -> None:
    with pytest.raises(Poison):
        await deliver([{"id": "evt_1"}])
    envelope = {"id": "evt_1", "created": 1, "livemode": False}
    await deliver(
        [
            {**envelope, "type": "some.new_type", "data": {"object": {"id": "x"}}},
            {**envelope, "type": "refund.created", "data": {"object": {"id": "re_1"}}},
        ]
    )
