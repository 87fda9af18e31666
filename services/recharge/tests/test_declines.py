"""Declines: another card, later, or the end; and charges that their owner has to authenticate."""

from datetime import timedelta

from recharge_house import House


async def test_behaviour_3_a_declined_card_is_retried_four_times_and_then_left_alone(house: House) -> None:
    tenant = await house.tenant("pm_card_chargeCustomerFail")
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["rounds"]) == ("retry_scheduled", 1)
    for _ in range(300):  # every refresh of a dashboard, every debit
        await house.balance(tenant, 9)
    await house.work()
    assert (await house.attempt(tenant))["n"] == 1
    for hours in (1, 6, 24, 72):
        house.later(timedelta(hours=hours, minutes=1))
        await house.balance(tenant, 9)
        await house.work()
    ended = await house.attempt(tenant)
    assert (ended["state"], ended["n"], ended["action_required"]) == ("canceled", 5, "new_card")
    assert ended["reserved_month"] is None
    assert [intent.status for intent in await house.payment_intents(tenant)] == ["canceled"]
    house.later(timedelta(days=30))
    await house.balance(tenant, 8)
    await house.decide_again()
    await house.work()
    assert len(await house.attempts(tenant)) == 1
    assert await house.last_reason(tenant) == "suspended"
    assert house.charges(tenant) == []


async def test_a_suspended_tenant_is_charged_again_with_a_new_card(house: House) -> None:
    tenant = await house.tenant("pm_card_chargeCustomerFail")
    customer = house.profiles[tenant].stripe_customer
    assert customer is not None
    await house.rows_changed(
        "UPDATE profile SET suspended_at = now(), suspended_reason = 'card_declined', suspended_cards = "
        "(SELECT array_agg(card ->> 'fingerprint') FROM jsonb_array_elements(profile -> 'cards') AS card)"
    )
    await house.work()  # what was reserved before is refused
    assert [attempt["reason"] for attempt in await house.attempts(tenant)] == ["suspended"]
    card = await house.save_card(customer, "pm_card_visa")
    await house.profile(tenant, cards=(card, *house.profiles[tenant].cards), default_payment_method=card.payment_method)
    await house.work()
    assert len(house.charges(tenant)) == 1


async def test_a_suspended_tenant_is_charged_again_when_its_owner_consents_anew(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", available=100)
    await house.rows_changed(
        "UPDATE profile SET suspended_at = now(), suspended_reason = 'card_declined', suspended_cards = "
        "(SELECT array_agg(card ->> 'fingerprint') FROM jsonb_array_elements(profile -> 'cards') AS card)"
    )
    await house.balance(tenant, 10)
    assert await house.last_reason(tenant) == "suspended"
    await house.settings(tenant)
    await house.work()
    assert len(house.charges(tenant)) == 1


async def test_a_card_that_its_owner_did_not_choose_is_never_charged(house: House) -> None:
    """akash-network/console#3560: the chosen one is declined, another one is there."""
    tenant = await house.tenant("pm_card_chargeCustomerFail", "pm_card_visa")
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["n"], house.charges(tenant)) == ("retry_scheduled", 1, [])


async def test_when_the_chosen_card_is_removed_no_other_is_charged_until_its_owner_chooses_one(house: House) -> None:
    tenant = await house.tenant("pm_card_visa", "pm_card_mastercard", available=100)
    _visa, mastercard = house.profiles[tenant].cards
    await house.profile(tenant, cards=(mastercard,), default_payment_method=None)
    await house.balance(tenant, 10)
    await house.work()
    assert (await house.last_reason(tenant), house.charges(tenant)) == ("no_card", [])
    await house.request(tenant)  # the manual trigger agrees
    await house.work()
    assert house.charges(tenant) == []
    await house.profile(tenant, default_payment_method=mastercard.payment_method)
    await house.work()
    assert [charge["payment_method"] for charge in house.charges(tenant)] == [mastercard.payment_method]


async def test_a_card_that_must_never_be_tried_again_is_stopped_by_its_fingerprint(house: House) -> None:
    tenant = await house.tenant("pm_card_visa")
    card = house.profiles[tenant].cards[0]
    house.simulator.put(f"/payment_methods/{card.payment_method}/behaviour", decline_code="stolen_card")
    await house.work()
    assert (await house.attempt(tenant))["state"] == "canceled"
    assert [row["card"] for row in await house.rows("SELECT card FROM card_stop")] == [card.fingerprint]
    customer = house.profiles[tenant].stripe_customer
    assert customer is not None
    again = await house.save_card(customer, "pm_card_visa")
    assert again.fingerprint == card.fingerprint
    await house.profile(tenant, cards=(again,), default_payment_method=again.payment_method)
    await house.work()
    assert await house.last_reason(tenant) == "card_stopped"
    assert house.charges(tenant) == []


async def test_a_retry_is_given_up_when_its_owner_stops_recharge(house: House) -> None:
    tenant = await house.tenant("pm_card_chargeCustomerFail")
    await house.work()
    await house.settings(tenant, enabled=False)
    house.later(timedelta(hours=2))
    await house.work()
    ended = await house.attempt(tenant)
    assert (ended["state"], ended["reason"], ended["n"]) == ("canceled", "disabled", 1)


async def test_behaviour_11_authentication_is_asked_for_once_and_the_charge_completes_on_session(house: House) -> None:
    tenant = await house.tenant("pm_card_authenticationRequired")
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["action_required"]) == ("requires_action", "authenticate")
    for hour in range(3):
        house.later(timedelta(hours=1))
        await house.balance(tenant, 9 - hour)
        await house.work()
    intents = await house.payment_intents(tenant)
    assert [intent.status for intent in intents] == ["requires_payment_method"]
    card = house.profiles[tenant].cards[0].payment_method
    await house.stripe.v1.payment_intents.confirm_async(
        intents[0].id, {"payment_method": card, "return_url": "https://example.com/billing"}
    )
    house.simulator.post(f"/payment_intents/{intents[0].id}/authenticate", succeeds=True)
    await house.webhooks(tenant, times=2)
    assert (await house.attempt(tenant))["state"] == "charged"
    await house.credit(tenant)
    assert (await house.attempt(tenant))["state"] == "credited"
    assert len(house.charges(tenant)) == 1


async def test_authentication_that_is_not_given_ends_by_cancelling_and_suspends(house: House) -> None:
    tenant = await house.tenant("pm_card_authenticationRequired")
    await house.work()
    house.later(timedelta(hours=73))
    await house.work()
    ended = await house.attempt(tenant)
    assert (ended["state"], ended["reason"]) == ("canceled", "authentication_not_given")
    assert [intent.status for intent in await house.payment_intents(tenant)] == ["canceled"]
    await house.balance(tenant, 5)
    assert await house.last_reason(tenant) == "suspended"


async def test_a_cancellation_that_comes_too_late_is_followed_to_the_charge(house: House) -> None:
    tenant = await house.tenant("pm_card_authenticationRequired")
    await house.work()
    (intent,) = await house.payment_intents(tenant)
    card = house.profiles[tenant].cards[0].payment_method
    await house.stripe.v1.payment_intents.confirm_async(
        intent.id, {"payment_method": card, "return_url": "https://example.com/billing"}
    )
    house.simulator.post(f"/payment_intents/{intent.id}/authenticate", succeeds=True)
    house.later(timedelta(hours=73))  # the webhook is lost
    await house.work()
    assert (await house.attempt(tenant))["state"] == "charged"
    assert len(house.charges(tenant)) == 1


async def test_a_card_that_stripe_does_not_know_gives_way_to_no_other(house: House) -> None:
    tenant = await house.tenant("pm_card_mastercard", "pm_card_visa")
    await house.stripe.v1.payment_methods.detach_async(house.profiles[tenant].cards[0].payment_method)
    await house.work()
    attempt = await house.attempt(tenant)
    assert (attempt["state"], attempt["action_required"], house.charges(tenant)) == ("canceled", "new_card", [])
    assert len(await house.payment_intents(tenant)) <= 1
