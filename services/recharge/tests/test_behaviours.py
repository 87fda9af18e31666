"""Faults that users of other systems have reported: none of them happens here."""

import asyncio
from datetime import timedelta

import pytest
from recharge_environment import SIGNING_KEY, RechargeEnvironment

from recharge.handlers import (
    StripeEventHandler,
    freeze_payer_of_dead_letter,
    freeze_tenant_of_dead_letter,
    on_balances,
    on_entries,
    on_refused_reversals,
    on_requests,
)
from recharge.repository.profiles import unfreeze
from shared.clock import utc_now
from shared.events import DomainEvent, EntryPosted, RechargeRequested, ReversalRefused, encode
from shared.ids import new_id
from shared.kafka import Record


async def test_one_shortfall_is_charged_for_once(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant(
        "pm_card_visa", available=10, threshold_credits=50_000, monthly_cap_minor=1_000_000
    )
    await environment.work()
    await environment.credit(tenant)
    for _ in range(10):
        await environment.balance(tenant, environment.balances[tenant].available)
        await environment.decide_again()
        await environment.work()
    assert len(environment.charges(tenant)) == 1
    assert await environment.last_reason(tenant) == "need_already_served"
    await environment.balance(tenant, 9)  # the credits have been used: a new need
    await environment.work()
    assert len(environment.charges(tenant)) == 2


async def test_an_empty_balance_is_charged_for_again_one_charge_at_a_time_within_the_cap(
    environment: RechargeEnvironment,
) -> None:
    """redguava/cliniko-api#167: after the balance fell far below zero it charged once and took the need for served."""
    tenant = await environment.tenant("pm_card_visa", available=-9_000, monthly_cap_minor=14_000)
    for _ in range(6):
        await environment.work()
        if len(environment.charges(tenant)) == len(
            await environment.rows("SELECT 1 FROM attempt WHERE state = 'credited'")
        ):
            break
        await environment.credit(tenant)
        assert len(await environment.rows("SELECT 1 FROM attempt WHERE state NOT IN ('credited', 'canceled')")) <= 1
    charged = sum(charge["amount_minor"] for charge in environment.charges(tenant))
    assert len(environment.charges(tenant)) > 1
    assert charged <= 14_000
    assert await environment.last_reason(tenant) == "cap_reached"


async def test_settings_saved_after_a_charge_begin_a_new_need(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant(
        "pm_card_visa", available=10, threshold_credits=50_000, monthly_cap_minor=1_000_000
    )
    await environment.work()
    await environment.credit(tenant)
    assert await environment.last_reason(tenant) == "need_already_served"
    environment.advance_clock(timedelta(seconds=1))
    await environment.settings(tenant, threshold_credits=40_000)
    await environment.work()
    assert len(environment.charges(tenant)) == 2


async def test_a_record_redelivered_while_charging_changes_nothing(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    record = Record("ledger.balance-changed", 0, 0, tenant, _encoded(environment.balances[tenant]))
    for _ in range(5):
        await environment.call(on_balances, [record, record])
        await environment.work()
    await environment.credit(tenant)
    for _ in range(5):
        await environment.call(on_balances, [record])
        await environment.work()
    assert len(environment.charges(tenant)) == 1
    assert len(await environment.attempts(tenant)) == 1


async def test_nothing_is_charged_while_a_purchase_is_open(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa", available=100)
    await environment.profile(tenant, open_purchases=("pur_1",))
    await environment.balance(tenant, 10)
    await environment.work()
    assert (await environment.last_reason(tenant), environment.charges(tenant)) == ("open_purchase", [])
    await environment.profile(tenant, open_purchases=())
    assert [attempt["state"] for attempt in await environment.attempts(tenant)] == ["reserved"]
    await environment.profile(tenant, open_purchases=("pur_2",))  # opened between the decision and the charge
    await environment.work()
    assert environment.charges(tenant) == []
    assert [attempt["state"] for attempt in await environment.attempts(tenant)] == ["canceled"]


async def test_a_reached_cap_is_the_reason_and_the_largest_package_within_it_is_bought_once(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa", monthly_cap_minor=5_300)
    await environment.work()
    await environment.credit(tenant)
    await environment.balance(tenant, 10)
    await environment.work()
    await environment.credit(tenant)
    await environment.balance(tenant, 10)
    await environment.work()
    assert [charge["amount_minor"] for charge in environment.charges(tenant)] == [4_500, 500]
    assert await environment.last_reason(tenant) == "cap_reached"
    assert [attempt["limited_by_cap"] for attempt in await environment.attempts(tenant)] == [False, True]


async def test_the_cap_holds_with_four_executors_at_once(environment: RechargeEnvironment) -> None:
    tenants = [await environment.tenant("pm_card_visa", monthly_cap_minor=9_000) for _ in range(4)]
    for _ in range(4):
        await environment.refresh_progress()
        due = await environment.rows("SELECT tenant_id, attempt FROM attempt WHERE state = 'reserved'")
        await asyncio.gather(
            *(environment.steps.run(row["tenant_id"], row["attempt"]) for row in due for _ in range(4))
        )
        for tenant in tenants:
            if (await environment.attempt(tenant))["state"] == "charged":
                await environment.credit(tenant)
                await environment.balance(tenant, 10)
    for tenant in tenants:
        assert sum(charge["amount_minor"] for charge in environment.charges(tenant)) == 9_000
        assert await environment.last_reason(tenant) == "cap_reached"


async def test_a_purchase_does_not_enable_recharge_again(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa", available=100)
    await environment.settings(tenant, enabled=False)
    purchase = EntryPosted(
        tenant=tenant, reference="pi_bought", door="stripe", kind="purchase", credits=0, payment_intent="pi_bought",
        purchase="pur_1", balance_version=1, posted_at=environment.now,
    )  # fmt: skip
    await environment.receive(on_entries, purchase)
    await environment.balance(tenant, 10)
    await environment.work()
    assert (await environment.last_reason(tenant), environment.charges(tenant)) == ("disabled", [])


async def test_two_executors_make_one_call_for_one_attempt(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    name = (await environment.attempt(tenant))["attempt"]
    await environment.refresh_progress()
    await asyncio.gather(*(environment.steps.run(tenant, name) for _ in range(8)))
    assert len(environment.charges(tenant)) == 1
    assert (await environment.rows("SELECT calls FROM attempt_try"))[0]["calls"] == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"enabled": False}, "disabled"),
        ({"consent": None}, "no_consent"),
        ({"monthly_cap_minor": 100}, "cap_reached"),
        ({"currency": "eur"}, "currency"),
    ],
)
async def test_settings_changed_after_the_decision_stop_the_charge(
    environment: RechargeEnvironment, changes: dict[str, object], reason: str
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    await environment.settings(tenant, **changes)
    await environment.work()
    ended = await environment.attempt(tenant)
    assert (ended["state"], ended["reason"], ended["n"]) == ("canceled", reason, 0)
    assert environment.charges(tenant) == []


async def test_nothing_is_charged_unless_the_profile_topic_was_read_to_its_end_lately(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.progress_age = timedelta(seconds=31)
    await environment.refresh_progress()
    await environment.steps.run(tenant, (await environment.attempt(tenant))["attempt"])
    assert ((await environment.attempt(tenant))["state"], environment.charges(tenant)) == ("reserved", [])
    environment.progress_age = timedelta(seconds=5)
    environment.advance_clock(timedelta(seconds=5))
    await environment.work()
    assert len(environment.charges(tenant)) == 1


async def test_a_balance_older_than_the_last_credit_is_not_charged_for(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    await environment.work()
    await environment.receive(on_entries, environment.entry(tenant))
    await environment.work()
    assert (await environment.last_reason(tenant), len(environment.charges(tenant))) == ("balance_older_than_credit", 1)


async def test_a_purchase_credited_but_not_yet_seen_in_the_balance_is_not_charged_for_again(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa", available=100)
    await environment.profile(tenant, open_purchases=("pur_1",))
    await environment.balance(tenant, 10)
    await environment.profile(
        tenant, open_purchases=(), credited_in_version=3
    )  # payments has received the entry, recharge has not
    await environment.work()
    assert (await environment.last_reason(tenant), environment.charges(tenant)) == ("balance_older_than_credit", [])
    await environment.balance(tenant, 1_010)
    assert await environment.last_reason(tenant) == "above_threshold"


async def test_a_request_is_charged_for_once_above_the_threshold_and_not_after_it_expired(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa", available=1_000)
    await environment.request(tenant)
    await environment.work()
    assert len(environment.charges(tenant)) == 1
    await environment.request(tenant)  # one is being charged for already
    await environment.credit(tenant)
    await environment.work()
    assert len(environment.charges(tenant)) == 1
    await environment.request(tenant, expires_in=timedelta(seconds=-1))
    await environment.work()
    assert len(environment.charges(tenant)) == 1
    states = await environment.rows("SELECT state FROM request ORDER BY request")
    assert [row["state"] for row in states] == ["attempted", "refused", "expired"]


async def test_requests_made_at_once_or_during_a_charge_are_charged_for_once(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa", available=1_000)
    first, second, late = (
        RechargeRequested(
            tenant=tenant, request=name, requested_by="ada", requested_at=environment.now,
            expires_at=environment.now + timedelta(minutes=10),
        )
        for name in ("req_1", "req_2", "req_3")
    )  # fmt: skip
    await environment.receive(on_requests, first, second)  # in one batch, so that one waits while the other is charged
    await environment.work()
    await environment.credit(tenant)
    await environment.receive(on_requests, late)  # requested before the credits came
    await environment.decide_again()
    await environment.work()
    assert len(environment.charges(tenant)) == 1
    answers = await environment.rows("SELECT state, reason FROM request ORDER BY request")
    assert [(row["state"], row["reason"]) for row in answers] == [
        ("attempted", None),
        ("refused", "need_already_served"),
        ("refused", "need_already_served"),
    ]
    await environment.request(tenant)
    await environment.work()
    assert len(environment.charges(tenant)) == 2


async def test_a_dispute_stops_charging_until_it_is_over(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    await environment.work()
    await environment.credit(tenant)
    dispute = environment.simulator.post(
        f"/charges/{environment.charges(tenant)[0]['charge']}/dispute", reason="fraudulent"
    )
    await environment.webhooks(tenant, times=2)
    await environment.balance(tenant, 10)
    await environment.work()
    assert (await environment.last_reason(tenant), len(environment.charges(tenant))) == ("dispute_open", 1)
    environment.simulator.post(f"/disputes/{dispute['id']}/resolve", outcome="won")
    await environment.webhooks(tenant, reverse=True)
    await environment.work()
    assert len(environment.charges(tenant)) == 2


async def test_a_receivable_stops_charging_until_its_owner_acts(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa", available=100)
    await environment.balance(tenant, -10, receivable=10)
    assert await environment.last_reason(tenant) == "receivable_open"
    await environment.settings(tenant)
    await environment.work()
    assert len(environment.charges(tenant)) == 1


async def test_an_attempt_with_an_unapplied_receipt_waits(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    await environment.work()
    await environment.credit(tenant, kind="unapplied_receipt")
    await environment.balance(tenant, 5)
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["receipt_unapplied"]) == ("charged", True)
    assert len(environment.charges(tenant)) == 1


@pytest.mark.parametrize("is_refunded", [False, True])
async def test_an_attempt_ends_when_an_operator_credits_its_receipt(
    environment: RechargeEnvironment, is_refunded: bool
) -> None:
    """Even if its money went back: the refund that waited for the credit is posted with it."""
    tenant = await environment.tenant("pm_card_visa")
    await environment.work()
    await environment.credit(tenant, kind="unapplied_receipt")
    credit = environment.entry(tenant)
    refund = credit.model_copy(update={"kind": "refund", "reference": "re_1", "credits": -credit.credits})
    await environment.receive(on_entries, credit, *[refund] * is_refunded)
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["receipt_unapplied"], attempt["reason"]) == ("credited", False, None)
    await environment.balance(tenant, 100)
    await environment.balance(tenant, 5)
    await environment.work()
    assert len(environment.charges(tenant)) == 2


async def test_a_dead_letter_freezes_the_tenant_or_customer_of_its_key(environment: RechargeEnvironment) -> None:
    tenant, payer = await environment.tenant("pm_card_visa", available=100), await environment.tenant("pm_card_visa")
    await environment.work()
    await environment.credit(payer)
    payment_intent = environment.charges(payer)[0]["payment_intent"]
    async with environment.outbox.transaction(environment.engine) as transaction:
        await freeze_tenant_of_dead_letter(transaction, Record("payments.billing-profile-changed", 0, 7, tenant, b"{"))
        await freeze_payer_of_dead_letter(transaction, Record("stripe.events", 0, 7, payment_intent, b"{"))
    await environment.balance(tenant, 10)
    await environment.balance(payer, 10)
    await environment.work()
    assert (await environment.last_reason(tenant), environment.charges(tenant)) == ("frozen", [])
    assert (await environment.last_reason(payer), len(environment.charges(payer))) == ("frozen", 1)


async def test_an_unreadable_dispute_of_a_tenant_not_known_then_is_lifted_by_unfreeze(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    await environment.work()
    payment_intent = environment.charges(tenant)[0]["payment_intent"]
    await environment.update_rows("DELETE FROM tenant_payment_intent")
    async with environment.outbox.transaction(environment.engine) as transaction:
        await freeze_payer_of_dead_letter(transaction, Record("stripe.events", 0, 7, payment_intent, b"{"))
    await environment.credit(tenant)  # its entry tells which tenant owns the PaymentIntent
    await environment.balance(tenant, 10)
    assert await environment.last_reason(tenant) == "dispute_open"
    async with environment.engine.begin() as connection:
        assert await unfreeze(connection, tenant)
    await environment.decide_again()
    await environment.work()
    assert len(environment.charges(tenant)) == 2
    async with environment.engine.begin() as connection:
        assert not await unfreeze(connection, tenant)


async def test_a_success_after_the_end_counts_in_the_cap(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    await environment.work()
    await environment.update_rows("UPDATE attempt SET state = 'canceled', reserved_month = NULL")
    await environment.webhooks(tenant)
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["reason"]) == ("canceled", "succeeded_after_end")
    assert attempt["reserved_month"] is not None
    await environment.credit(tenant)
    assert (await environment.attempt(tenant))["state"] == "credited"


async def test_stripe_events_without_our_metadata_change_nothing(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa", available=100)
    customer = environment.profiles[tenant].stripe_customer
    assert customer is not None
    await environment.stripe.v1.payment_intents.create_async(
        {"amount": 500, "currency": "usd", "customer": customer, "metadata": {"attempt": "att_forged"}}
    )
    await environment.webhooks(tenant)
    await environment.call(StripeEventHandler([SIGNING_KEY]).handle, [])
    assert await environment.attempts(tenant) == []


def _encoded(event: DomainEvent) -> bytes:
    return encode(event, event_id=new_id("evt"), now=utc_now())


async def test_a_reversal_that_the_ledger_refused_freezes_its_tenant(
    environment: RechargeEnvironment,
) -> None:
    tenant, other = (
        await environment.tenant("pm_card_visa", available=100),
        await environment.tenant("pm_card_visa", available=100),
    )
    refused = ReversalRefused(
        tenant=tenant, payment_intent="pi_1", reversal="re_1", amount_minor=900, currency="eur",
        credited_currency="usd", refused_at=utc_now(),
    )  # fmt: skip
    record = Record(refused.TOPIC, 0, 7, tenant, encode(refused, event_id="evt_1", now=utc_now()))
    async with environment.outbox.transaction(environment.engine) as transaction:
        await on_refused_reversals(transaction, [record])
    await environment.balance(tenant, 10)
    await environment.balance(other, 10)
    await environment.work()
    assert (await environment.last_reason(tenant), environment.charges(tenant)) == ("frozen", [])
    assert len(environment.charges(other)) == 1
    async with environment.engine.begin() as connection:
        assert await unfreeze(connection, tenant)
    await environment.decide_again()
    await environment.work()
    assert len(environment.charges(tenant)) == 1
