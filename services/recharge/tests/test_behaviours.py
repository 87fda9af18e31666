"""What hurt the users of other systems, each proven not to happen here."""

import asyncio
from datetime import timedelta

import pytest
from recharge_house import SIGNING_KEY, House

from recharge.handlers import freeze_key, on_balances, on_entries, on_refused_reversals, on_requests
from recharge.repository.inputs import unfreeze
from recharge.stripe_handlers import StripeEvents, freeze_payment
from shared.clock import utc_now
from shared.events import DomainEvent, EntryPosted, RechargeRequested, ReversalRefused, encode
from shared.ids import new_id
from shared.kafka import Record


async def test_behaviour_2_one_shortfall_is_one_charge(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=10, threshold_credits=50_000, monthly_cap_minor=1_000_000)
    await house.work()
    await house.credit(tenant)
    for _ in range(10):
        await house.balance(tenant, house.balances[tenant].available)
        await house.decide_again()
        await house.work()
    assert len(house.charges(tenant)) == 1
    assert await house.last_reason(tenant) == "need_already_served"
    await house.balance(tenant, 9)  # what was bought has been used up: a new need
    await house.work()
    assert len(house.charges(tenant)) == 2


async def test_a_product_that_is_refused_is_charged_for_again_one_charge_at_a_time_within_the_cap(house: House) -> None:
    """redguava/cliniko-api#167: after a jump far below zero it charged once, then held the need for served."""
    tenant = await house.tenant("pm_card_visa", available=-9_000, monthly_cap_minor=14_000)
    for _ in range(6):
        await house.work()
        if len(house.charges(tenant)) == len(await house.rows("SELECT 1 FROM attempt WHERE state = 'credited'")):
            break
        await house.credit(tenant)
        assert len(await house.rows("SELECT 1 FROM attempt WHERE state NOT IN ('credited', 'canceled')")) <= 1
    charged = sum(charge["amount_minor"] for charge in house.charges(tenant))
    assert len(house.charges(tenant)) > 1
    assert charged <= 14_000
    assert await house.last_reason(tenant) == "cap_reached"


async def test_what_its_owner_saves_after_a_charge_asks_for_another(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=10, threshold_credits=50_000, monthly_cap_minor=1_000_000)
    await house.work()
    await house.credit(tenant)
    assert await house.last_reason(tenant) == "need_already_served"
    house.later(timedelta(seconds=1))
    await house.settings(tenant, threshold_credits=40_000)
    await house.work()
    assert len(house.charges(tenant)) == 2


async def test_behaviour_4_a_record_redelivered_while_charging_changes_nothing(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    record = Record("ledger.balance-changed", 0, 0, tenant, _encoded(house.balances[tenant]))
    for _ in range(5):
        await house.call(on_balances, [record, record])
        await house.work()
    await house.credit(tenant)
    for _ in range(5):
        await house.call(on_balances, [record])
        await house.work()
    assert len(house.charges(tenant)) == 1
    assert len(await house.attempts(tenant)) == 1


async def test_behaviour_5_nothing_is_charged_while_a_purchase_is_open(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=100)
    await house.profile(tenant, open_purchases=("pur_1",))
    await house.balance(tenant, 10)
    await house.work()
    assert (await house.last_reason(tenant), house.charges(tenant)) == ("open_purchase", [])
    await house.profile(tenant, open_purchases=())
    assert [attempt["state"] for attempt in await house.attempts(tenant)] == ["reserved"]
    await house.profile(tenant, open_purchases=("pur_2",))  # opened between the decision and the charge
    await house.work()
    assert house.charges(tenant) == []
    assert [attempt["state"] for attempt in await house.attempts(tenant)] == ["canceled"]


async def test_behaviour_8_a_cap_that_leaves_no_room_is_said_and_the_most_that_fits_is_bought_once(
    house: House,
) -> None:
    tenant = await house.tenant("pm_card_visa", monthly_cap_minor=5_300)
    await house.work()
    await house.credit(tenant)
    await house.balance(tenant, 10)
    await house.work()
    await house.credit(tenant)
    await house.balance(tenant, 10)
    await house.work()
    assert [charge["amount_minor"] for charge in house.charges(tenant)] == [4_500, 500]
    assert await house.last_reason(tenant) == "cap_reached"
    assert [attempt["limited_by_cap"] for attempt in await house.attempts(tenant)] == [False, True]


async def test_behaviour_13_the_cap_holds_with_four_executors_at_once(house: House) -> None:
    tenants = [await house.tenant("pm_card_visa", monthly_cap_minor=9_000) for _ in range(4)]
    for _ in range(4):
        await house.refresh_progress()
        due = await house.rows("SELECT tenant_id, attempt FROM attempt WHERE state = 'reserved'")
        await asyncio.gather(*(house.steps.take(row["tenant_id"], row["attempt"]) for row in due for _ in range(4)))
        for tenant in tenants:
            if (await house.attempt(tenant))["state"] == "charged":
                await house.credit(tenant)
                await house.balance(tenant, 10)
    for tenant in tenants:
        assert sum(charge["amount_minor"] for charge in house.charges(tenant)) == 9_000
        assert await house.last_reason(tenant) == "cap_reached"


async def test_behaviour_13_a_purchase_does_not_enable_recharge_again(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=100)
    await house.settings(tenant, enabled=False)
    purchase = EntryPosted(
        tenant=tenant, reference="pi_bought", door="stripe", kind="purchase", credits=0, payment_intent="pi_bought",
        purchase="pur_1", balance_version=1, posted_at=house.now,
    )  # fmt: skip
    await house.receive(on_entries, purchase)
    await house.balance(tenant, 10)
    await house.work()
    assert (await house.last_reason(tenant), house.charges(tenant)) == ("disabled", [])


async def test_two_executors_racing_for_one_attempt_make_one_call(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    name = (await house.attempt(tenant))["attempt"]
    await house.refresh_progress()
    await asyncio.gather(*(house.steps.take(tenant, name) for _ in range(8)))
    assert len(house.charges(tenant)) == 1
    assert (await house.rows("SELECT calls FROM attempt_try"))[0]["calls"] == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"enabled": False}, "disabled"),
        ({"consent": None}, "no_consent"),
        ({"monthly_cap_minor": 100}, "cap_reached"),
        ({"currency": "eur"}, "currency"),
    ],
)
async def test_what_its_owner_changes_after_the_decision_still_stops_the_charge(
    house: House, changes: dict[str, object], reason: str
) -> None:
    tenant = await house.tenant("pm_card_visa")
    await house.settings(tenant, **changes)
    await house.work()
    ended = await house.attempt(tenant)
    assert (ended["state"], ended["reason"], ended["n"]) == ("canceled", reason, 0)
    assert house.charges(tenant) == []


async def test_no_charge_unless_the_profiles_were_read_to_their_end_lately(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    house.progress_age = timedelta(seconds=31)
    await house.refresh_progress()
    await house.steps.take(tenant, (await house.attempt(tenant))["attempt"])
    assert ((await house.attempt(tenant))["state"], house.charges(tenant)) == ("reserved", [])
    house.progress_age = timedelta(seconds=5)
    house.later(timedelta(seconds=5))
    await house.work()
    assert len(house.charges(tenant)) == 1


async def test_a_balance_older_than_the_last_credit_is_not_decided_on(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    await house.work()
    await house.receive(on_entries, house.entry(tenant))
    await house.work()
    assert (await house.last_reason(tenant), len(house.charges(tenant))) == ("balance_older_than_credit", 1)


async def test_a_purchase_credited_but_not_yet_seen_in_the_balance_is_not_charged_for_again(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=100)
    await house.profile(tenant, open_purchases=("pur_1",))
    await house.balance(tenant, 10)
    await house.profile(tenant, open_purchases=(), credited_in_version=3)  # payments has seen the entry, we have not
    await house.work()
    assert (await house.last_reason(tenant), house.charges(tenant)) == ("balance_older_than_credit", [])
    await house.balance(tenant, 1_010)
    assert await house.last_reason(tenant) == "above_threshold"


async def test_a_request_charges_above_the_threshold_once_and_not_after_it_expired(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=1_000)
    await house.request(tenant)
    await house.work()
    assert len(house.charges(tenant)) == 1
    await house.request(tenant)  # one is under way already
    await house.credit(tenant)
    await house.work()
    assert len(house.charges(tenant)) == 1
    await house.request(tenant, expires_in=timedelta(seconds=-1))
    await house.work()
    assert len(house.charges(tenant)) == 1
    states = await house.rows("SELECT state FROM request ORDER BY request")
    assert [row["state"] for row in states] == ["attempted", "refused", "expired"]


async def test_requests_made_at_once_or_while_a_card_is_charged_are_one_charge(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=1_000)
    first, second, late = (
        RechargeRequested(
            tenant=tenant, request=name, requested_by="ada", requested_at=house.now,
            expires_at=house.now + timedelta(minutes=10),
        )
        for name in ("req_1", "req_2", "req_3")
    )  # fmt: skip
    await house.receive(on_requests, first, second)  # in one batch, so that one waits while the other is charged
    await house.work()
    await house.credit(tenant)
    await house.receive(on_requests, late)  # on its way since before the credits came
    await house.decide_again()
    await house.work()
    assert len(house.charges(tenant)) == 1
    answers = await house.rows("SELECT state, reason FROM request ORDER BY request")
    assert [(row["state"], row["reason"]) for row in answers] == [
        ("attempted", None),
        ("refused", "need_already_served"),
        ("refused", "need_already_served"),
    ]
    await house.request(tenant)
    await house.work()
    assert len(house.charges(tenant)) == 2


async def test_a_dispute_stops_charging_until_it_is_over(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    await house.work()
    await house.credit(tenant)
    dispute = house.simulator.post(f"/charges/{house.charges(tenant)[0]['charge']}/dispute", reason="fraudulent")
    await house.webhooks(tenant, times=2)
    await house.balance(tenant, 10)
    await house.work()
    assert (await house.last_reason(tenant), len(house.charges(tenant))) == ("dispute_open", 1)
    house.simulator.post(f"/disputes/{dispute['id']}/resolve", outcome="won")
    await house.webhooks(tenant, reverse=True)
    await house.work()
    assert len(house.charges(tenant)) == 2


async def test_a_receivable_stops_charging_until_its_owner_acts(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=100)
    await house.balance(tenant, -10, receivable=10)
    assert await house.last_reason(tenant) == "receivable_open"
    await house.settings(tenant)
    await house.work()
    assert len(house.charges(tenant)) == 1


async def test_a_receipt_that_cannot_be_applied_holds_the_attempt(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    await house.work()
    await house.credit(tenant, kind="unapplied_receipt")
    await house.balance(tenant, 5)
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["receipt_unapplied"]) == ("charged", True)
    assert len(house.charges(tenant)) == 1


@pytest.mark.parametrize("is_refunded", [False, True])
async def test_an_operator_who_credits_the_receipt_ends_the_attempt(house: House, is_refunded: bool) -> None:
    """Also where the money has gone back: the refund that waited for the credit comes with it."""
    tenant = await house.tenant("pm_card_visa")
    await house.work()
    await house.credit(tenant, kind="unapplied_receipt")
    credit = house.entry(tenant)
    refund = credit.model_copy(update={"kind": "refund", "reference": "re_1", "credits": -credit.credits})
    await house.receive(on_entries, credit, *[refund] * is_refunded)
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["receipt_unapplied"], attempt["reason"]) == ("credited", False, None)
    await house.balance(tenant, 100)
    await house.balance(tenant, 5)
    await house.work()
    assert len(house.charges(tenant)) == 2


async def test_what_could_not_be_read_freezes_charging_for_its_key(house: House) -> None:
    tenant, payer = await house.tenant("pm_card_visa", available=100), await house.tenant("pm_card_visa")
    await house.work()
    await house.credit(payer)
    payment_intent = house.charges(payer)[0]["payment_intent"]
    async with house.outbox.transaction(house.engine) as transaction:
        await freeze_key(transaction, Record("payments.billing-profile-changed", 0, 7, tenant, b"{"))
        await freeze_payment(transaction, Record("stripe.events", 0, 7, payment_intent, b"{"))
    await house.balance(tenant, 10)
    await house.balance(payer, 10)
    await house.work()
    assert (await house.last_reason(tenant), house.charges(tenant)) == ("frozen", [])
    assert (await house.last_reason(payer), len(house.charges(payer))) == ("frozen", 1)


async def test_an_unreadable_dispute_that_came_before_its_owner_was_known_is_lifted_like_a_freeze(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    await house.work()
    payment_intent = house.charges(tenant)[0]["payment_intent"]
    await house.rows_changed("DELETE FROM tenant_payment_intent")
    async with house.outbox.transaction(house.engine) as transaction:
        await freeze_payment(transaction, Record("stripe.events", 0, 7, payment_intent, b"{"))
    await house.credit(tenant)  # and its entry tells whose PaymentIntent it was
    await house.balance(tenant, 10)
    assert await house.last_reason(tenant) == "dispute_open"
    async with house.engine.begin() as connection:
        assert await unfreeze(connection, tenant)
    await house.decide_again()
    await house.work()
    assert len(house.charges(tenant)) == 2
    async with house.engine.begin() as connection:
        assert not await unfreeze(connection, tenant)


async def test_a_success_after_the_end_counts_in_the_cap(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    await house.work()
    await house.rows_changed("UPDATE attempt SET state = 'canceled', reserved_month = NULL")
    await house.webhooks(tenant)
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["reason"]) == ("canceled", "succeeded_after_end")
    assert attempt["reserved_month"] is not None
    await house.credit(tenant)
    assert (await house.attempt(tenant))["state"] == "credited"


async def test_stripe_events_of_others_change_nothing(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=100)
    customer = house.profiles[tenant].stripe_customer
    assert customer is not None
    await house.stripe.v1.payment_intents.create_async(
        {"amount": 500, "currency": "usd", "customer": customer, "metadata": {"attempt": "att_forged"}}
    )
    await house.webhooks(tenant)
    await house.call(StripeEvents([SIGNING_KEY]).handle, [])
    assert await house.attempts(tenant) == []


def _encoded(event: DomainEvent) -> bytes:
    return encode(event, event_id=new_id("evt"), now=utc_now())


async def test_a_reversal_that_the_ledger_refused_freezes_charging_for_its_tenant(house: House) -> None:
    tenant, other = await house.tenant("pm_card_visa", available=100), await house.tenant("pm_card_visa", available=100)
    refused = ReversalRefused(
        tenant=tenant, payment_intent="pi_1", reversal="re_1", amount_minor=900, currency="eur",
        credited_currency="usd", refused_at=utc_now(),
    )  # fmt: skip
    record = Record(refused.TOPIC, 0, 7, tenant, encode(refused, event_id="evt_1", now=utc_now()))
    async with house.outbox.transaction(house.engine) as transaction:
        await on_refused_reversals(transaction, [record])
    await house.balance(tenant, 10)
    await house.balance(other, 10)
    await house.work()
    assert (await house.last_reason(tenant), house.charges(tenant)) == ("frozen", [])
    assert len(house.charges(other)) == 1
    async with house.engine.begin() as connection:
        assert await unfreeze(connection, tenant)
    await house.decide_again()
    await house.work()
    assert len(house.charges(tenant)) == 1
