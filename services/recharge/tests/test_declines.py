"""Declines: another card, later, or the end; and charges that their owner has to authenticate."""

from datetime import timedelta

from recharge_environment import RechargeEnvironment


async def test_a_declined_card_is_retried_four_times_and_then_given_up(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_chargeCustomerFail")
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["rounds"]) == ("retry_scheduled", 1)
    for _ in range(300):  # every refresh of a dashboard, every debit
        await environment.balance(tenant, 9)
    await environment.work()
    assert (await environment.attempt(tenant))["n"] == 1
    for hours in (1, 6, 24, 72):
        environment.advance_clock(timedelta(hours=hours, minutes=1))
        await environment.balance(tenant, 9)
        await environment.work()
    ended = await environment.attempt(tenant)
    assert (ended["state"], ended["n"], ended["action_required"]) == ("canceled", 5, "new_card")
    assert ended["reserved_month"] is None
    assert [intent.status for intent in await environment.payment_intents(tenant)] == ["canceled"]
    environment.advance_clock(timedelta(days=30))
    await environment.balance(tenant, 8)
    await environment.decide_again()
    await environment.work()
    assert len(await environment.attempts(tenant)) == 1
    assert await environment.last_reason(tenant) == "suspended"
    assert environment.charges(tenant) == []


async def test_a_suspended_tenant_is_charged_again_with_a_new_card(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_chargeCustomerFail")
    customer = environment.profiles[tenant].stripe_customer
    assert customer is not None
    await environment.update_rows(
        "UPDATE profile SET suspended_at = now(), suspended_reason = 'card_declined', suspended_cards = "
        "(SELECT array_agg(card ->> 'fingerprint') FROM jsonb_array_elements(profile -> 'cards') AS card)"
    )
    await environment.work()  # the attempt reserved before is not allowed
    assert [attempt["reason"] for attempt in await environment.attempts(tenant)] == ["suspended"]
    card = await environment.save_card(customer, "pm_card_visa")
    await environment.profile(
        tenant, cards=(card, *environment.profiles[tenant].cards), default_payment_method=card.payment_method
    )
    await environment.work()
    assert len(environment.charges(tenant)) == 1


async def test_a_suspended_tenant_is_charged_again_when_its_owner_consents_anew(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa", available=100)
    await environment.update_rows(
        "UPDATE profile SET suspended_at = now(), suspended_reason = 'card_declined', suspended_cards = "
        "(SELECT array_agg(card ->> 'fingerprint') FROM jsonb_array_elements(profile -> 'cards') AS card)"
    )
    await environment.balance(tenant, 10)
    assert await environment.last_reason(tenant) == "suspended"
    await environment.settings(tenant)
    await environment.work()
    assert len(environment.charges(tenant)) == 1


async def test_a_card_that_its_owner_did_not_choose_is_never_charged(environment: RechargeEnvironment) -> None:
    """akash-network/console#3560: the chosen one is declined, another one is there."""
    tenant = await environment.tenant("pm_card_chargeCustomerFail", "pm_card_visa")
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["n"], environment.charges(tenant)) == ("retry_scheduled", 1, [])


async def test_after_the_chosen_card_is_removed_nothing_is_charged_until_another_is_chosen(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa", "pm_card_mastercard", available=100)
    _visa, mastercard = environment.profiles[tenant].cards
    await environment.profile(tenant, cards=(mastercard,), default_payment_method=None)
    await environment.balance(tenant, 10)
    await environment.work()
    assert (await environment.last_reason(tenant), environment.charges(tenant)) == ("no_card", [])
    await environment.request(tenant)  # a request changes nothing
    await environment.work()
    assert environment.charges(tenant) == []
    await environment.profile(tenant, default_payment_method=mastercard.payment_method)
    await environment.work()
    assert [charge["payment_method"] for charge in environment.charges(tenant)] == [mastercard.payment_method]


async def test_a_card_that_will_never_pay_is_stopped_by_its_fingerprint(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    card = environment.profiles[tenant].cards[0]
    environment.simulator.put(f"/payment_methods/{card.payment_method}/behaviour", decline_code="stolen_card")
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "canceled"
    assert [row["card"] for row in await environment.rows("SELECT card FROM card_stop")] == [card.fingerprint]
    customer = environment.profiles[tenant].stripe_customer
    assert customer is not None
    again = await environment.save_card(customer, "pm_card_visa")
    assert again.fingerprint == card.fingerprint
    await environment.profile(tenant, cards=(again,), default_payment_method=again.payment_method)
    await environment.work()
    assert await environment.last_reason(tenant) == "card_stopped"
    assert environment.charges(tenant) == []


async def test_a_retry_is_given_up_when_its_owner_stops_recharge(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_chargeCustomerFail")
    await environment.work()
    await environment.settings(tenant, enabled=False)
    environment.advance_clock(timedelta(hours=2))
    await environment.work()
    ended = await environment.attempt(tenant)
    assert (ended["state"], ended["reason"], ended["n"]) == ("canceled", "disabled", 1)


async def test_authentication_is_required_once_and_the_charge_completes_on_session(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_authenticationRequired")
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["action_required"]) == ("requires_action", "authenticate")
    for hour in range(3):
        environment.advance_clock(timedelta(hours=1))
        await environment.balance(tenant, 9 - hour)
        await environment.work()
    intents = await environment.payment_intents(tenant)
    assert [intent.status for intent in intents] == ["requires_payment_method"]
    card = environment.profiles[tenant].cards[0].payment_method
    await environment.stripe.v1.payment_intents.confirm_async(
        intents[0].id, {"payment_method": card, "return_url": "https://example.com/billing"}
    )
    environment.simulator.post(f"/payment_intents/{intents[0].id}/authenticate", succeeds=True)
    await environment.webhooks(tenant, times=2)
    assert (await environment.attempt(tenant))["state"] == "charged"
    await environment.credit(tenant)
    assert (await environment.attempt(tenant))["state"] == "credited"
    assert len(environment.charges(tenant)) == 1


async def test_a_charge_that_is_not_authenticated_is_cancelled_and_suspends_its_tenant(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_authenticationRequired")
    await environment.work()
    environment.advance_clock(timedelta(hours=73))
    await environment.work()
    ended = await environment.attempt(tenant)
    assert (ended["state"], ended["reason"]) == ("canceled", "authentication_not_given")
    assert [intent.status for intent in await environment.payment_intents(tenant)] == ["canceled"]
    await environment.balance(tenant, 5)
    assert await environment.last_reason(tenant) == "suspended"


async def test_a_cancellation_that_comes_too_late_leaves_the_attempt_charged(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_authenticationRequired")
    await environment.work()
    (intent,) = await environment.payment_intents(tenant)
    card = environment.profiles[tenant].cards[0].payment_method
    await environment.stripe.v1.payment_intents.confirm_async(
        intent.id, {"payment_method": card, "return_url": "https://example.com/billing"}
    )
    environment.simulator.post(f"/payment_intents/{intent.id}/authenticate", succeeds=True)
    environment.advance_clock(timedelta(hours=73))  # the webhook is lost
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "charged"
    assert len(environment.charges(tenant)) == 1


async def test_a_card_that_stripe_does_not_know_is_not_replaced_by_another(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_mastercard", "pm_card_visa")
    await environment.stripe.v1.payment_methods.detach_async(environment.profiles[tenant].cards[0].payment_method)
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["action_required"], environment.charges(tenant)) == ("canceled", "new_card", [])
    assert len(await environment.payment_intents(tenant)) <= 1
