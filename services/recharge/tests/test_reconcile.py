"""An attempt in `unknown` is reconciled: whatever happens to the answer, there is one PaymentIntent and one charge."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from recharge_environment import RechargeEnvironment

from recharge.core.answers import Answer
from recharge.core.attempts import month_of
from recharge.stripe_gateway import StripeGateway
from recharge.workflows.rate_limiter import RateLimiter

HANGING_LONGER_THAN_WE_WAIT_S = 5.0


class Stalling(StripeGateway):
    """A worker that stalls between Stripe's answer and recording it."""

    def __init__(self, real: StripeGateway) -> None:
        self._real = real
        self.is_answered = asyncio.Event()
        self.may_return = asyncio.Event()

    async def create(self, parameters: Mapping[str, Any], key: str) -> Answer:
        answer = await self._real.create(parameters, key)
        self.is_answered.set()
        await self.may_return.wait()
        return answer


async def _is_charged_once(environment: RechargeEnvironment, tenant: str) -> None:
    assert len(await environment.payment_intents(tenant)) == 1
    assert len(environment.charges(tenant)) == 1
    assert (await environment.attempt(tenant))["state"] == "charged"
    await environment.credit(tenant)
    assert environment.published.states(tenant)[-1] == "credited"


@pytest.mark.parametrize("kind", ["error_after", "drop_answer"])
async def test_after_an_answer_lost_after_the_charge_the_same_key_is_repeated(
    environment: RechargeEnvironment, kind: str
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault(kind, path="/v1/payment_intents")
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "unknown"
    environment.advance_clock(timedelta(minutes=1))
    await environment.work()
    environment.advance_clock(timedelta(minutes=1))
    await environment.work()
    await _is_charged_once(environment, tenant)
    tries = await environment.rows("SELECT * FROM attempt_try")
    assert len(tries) == 1
    assert tries[0]["calls"] >= 2


async def test_after_a_time_out_the_same_key_is_repeated(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("hang", path="/v1/payment_intents", seconds=HANGING_LONGER_THAN_WE_WAIT_S)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "unknown"
    environment.advance_clock(timedelta(minutes=1))
    await environment.work()
    await _is_charged_once(environment, tenant)


async def test_a_repeated_500_is_final_and_reconciled_before_a_new_key(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("error_before", path="/v1/payment_intents")
    await environment.work()
    environment.advance_clock(timedelta(minutes=1))
    await environment.work()  # the same 500 again is final; the list is empty
    assert (await environment.attempt(tenant))["state"] == "unknown"
    assert await environment.payment_intents(tenant) == []
    environment.advance_clock(timedelta(minutes=11))
    await environment.balance(tenant, 9)
    await environment.work()  # the second empty list proves that nothing was made; charged under the next key
    await _is_charged_once(environment, tenant)
    keys = await environment.rows("SELECT idempotency_key, outcome FROM attempt_try ORDER BY n")
    attempt = (await environment.attempt(tenant))["attempt"]
    assert [(row["idempotency_key"], row["outcome"]) for row in keys] == [
        (f"{attempt}:1", "never_made"),
        (f"{attempt}:2", "succeeded"),
    ]


@pytest.mark.parametrize("kind", ["conflict", "rate_limit"])
async def test_after_409_and_429_the_same_key_is_repeated(environment: RechargeEnvironment, kind: str) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault(kind, path="/v1/payment_intents")
    await environment.work()
    assert environment.charges(tenant) == []
    environment.advance_clock(timedelta(minutes=1))
    await environment.work()
    await _is_charged_once(environment, tenant)
    assert (await environment.attempt(tenant))["n"] == 1


async def test_an_old_key_is_reconciled_by_a_list_and_not_repeated(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    environment.advance_clock(timedelta(hours=21))
    await environment.work()
    await _is_charged_once(environment, tenant)
    assert (await environment.rows("SELECT calls FROM attempt_try"))[0]["calls"] == 1


async def test_no_new_try_begins_while_the_old_key_may_still_be_executed(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("hang", path="/v1/payment_intents", seconds=HANGING_LONGER_THAN_WE_WAIT_S, commit="never")
    await environment.work()
    environment.advance_clock(timedelta(hours=21))
    await environment.work()
    environment.advance_clock(timedelta(minutes=11))
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "unknown"
    assert environment.charges(tenant) == []
    environment.advance_clock(timedelta(hours=3))
    await environment.work()
    await _is_charged_once(environment, tenant)
    assert (await environment.attempt(tenant))["n"] == 2


async def test_an_event_before_the_answer_makes_the_attempt_due_at_once(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    await environment.webhooks(tenant, reverse=True, times=2)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "charged"
    environment.advance_clock(timedelta(minutes=1))
    await environment.work()
    await _is_charged_once(environment, tenant)


async def test_the_month_is_reserved_until_the_attempt_is_reconciled(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa", monthly_cap_minor=5_000)
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["reserved_month"]) == ("unknown", month_of(environment.now))


async def test_a_charge_that_is_reconciled_in_a_later_month_counts_in_that_months_cap(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa", monthly_cap_minor=4_900)
    environment.fault("error_before", path="/v1/payment_intents", kept=False)
    await environment.work()
    await environment.update_rows("UPDATE attempt SET reserved_month = reserved_month - interval '1 month'")
    environment.advance_clock(timedelta(minutes=1))
    await environment.work()  # the key repeated: only now the card is charged
    assert (await environment.attempt(tenant))["reserved_month"] == month_of(environment.now)
    await environment.credit(tenant)
    await environment.balance(tenant, 10)
    await environment.work()
    assert len(environment.charges(tenant)) == 1
    assert await environment.last_reason(tenant) == "cap_reached"


async def test_the_age_of_a_key_begins_with_the_first_call_that_may_have_charged(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("rate_limit", path="/v1/payment_intents")
    await environment.work()
    environment.advance_clock(timedelta(hours=30))
    environment.fault("error_before", path="/v1/payment_intents", kept=False)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "unknown"
    environment.advance_clock(timedelta(minutes=11))
    await environment.work()
    await _is_charged_once(environment, tenant)
    assert [row["calls"] for row in await environment.rows("SELECT calls FROM attempt_try")] == [3]


async def test_a_call_is_not_made_after_its_lease_has_run_out(environment: RechargeEnvironment) -> None:
    class LateTurn(RateLimiter):
        async def acquire(self) -> None:
            environment.offset += timedelta(hours=25)

    tenant = await environment.tenant("pm_card_visa")
    in_time, environment.steps = environment.steps, replace(environment.steps, rate_limiter=LateTurn(100))
    await environment.steps.run(tenant, (await environment.attempt(tenant))["attempt"])
    assert environment.charges(tenant) == []
    environment.steps = in_time
    for _ in range(2):
        await environment.balance(tenant, 9)
        await environment.work()
        environment.advance_clock(timedelta(minutes=11))
    await _is_charged_once(environment, tenant)


async def test_an_operator_error_opens_the_breaker_and_suspends_no_tenant(environment: RechargeEnvironment) -> None:
    tenant, other = await environment.tenant("pm_card_visa"), await environment.tenant("pm_card_visa", available=100)
    steps, wrong = environment.steps, environment.gateway_with_key("sk_test_wrong")
    async with wrong as gateway:
        environment.use_gateway(gateway)
        await environment.work()
    environment.steps = steps
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], environment.charges(tenant)) == ("reserved", [])
    await environment.balance(other, 10)
    assert await environment.last_reason(other) == "breaker_open"
    assert await environment.rows("SELECT 1 FROM profile WHERE suspended_at IS NOT NULL") == []
    environment.advance_clock(timedelta(minutes=11))
    await environment.work()
    await environment.decide_again()
    await environment.work()
    assert (len(environment.charges(tenant)), len(environment.charges(other))) == (1, 1)
    assert (await environment.attempt(tenant))["n"] == 1


async def test_an_answer_to_an_older_call_changes_nothing_while_its_key_is_repeated(
    environment: RechargeEnvironment,
) -> None:
    """The first worker is refused with 429 and stalls; the second repeats the key, and Stripe charges."""
    tenant = await environment.tenant("pm_card_visa")
    attempt = (await environment.attempt(tenant))["attempt"]
    first, second = Stalling(environment.steps.gateway), Stalling(environment.steps.gateway)
    environment.fault("rate_limit", path="/v1/payment_intents")
    stalled = asyncio.create_task(replace(environment.steps, gateway=first).run(tenant, attempt))
    async with asyncio.timeout(10):
        await first.is_answered.wait()
        environment.advance_clock(timedelta(seconds=46))
        await environment.refresh_progress()
        repeating = asyncio.create_task(replace(environment.steps, gateway=second).run(tenant, attempt))
        await second.is_answered.wait()
    first.may_return.set()
    await stalled
    assert (await environment.attempt(tenant))["state"] == "charging"
    second.may_return.set()
    await repeating
    await _is_charged_once(environment, tenant)


async def _loses_an_answer(environment: RechargeEnvironment, kind: str) -> str:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault(kind, path="/v1/payment_intents", **({"kept": False} if kind == "error_before" else {}))
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "unknown"
    return tenant


async def test_a_key_in_doubt_is_not_repeated_after_its_owner_has_disabled_recharge(
    environment: RechargeEnvironment,
) -> None:
    tenant = await _loses_an_answer(environment, "error_before")
    await environment.settings(tenant, enabled=False)
    for later in (timedelta(minutes=1), timedelta(minutes=11), timedelta(hours=24)):
        assert (await environment.attempt(tenant))["state"] == "unknown", "not proven yet"
        environment.advance_clock(later)
        await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["reason"], attempt["reserved_month"]) == ("canceled", "disabled", None)
    assert await environment.payment_intents(tenant) == []
    assert [row["calls"] for row in await environment.rows("SELECT calls FROM attempt_try")] == [1]


async def test_a_charge_made_before_its_owner_disabled_recharge_is_found_and_kept(
    environment: RechargeEnvironment,
) -> None:
    tenant = await _loses_an_answer(environment, "drop_answer")
    await environment.settings(tenant, enabled=False)
    environment.advance_clock(timedelta(minutes=1))
    await environment.work()
    await _is_charged_once(environment, tenant)
    assert [row["calls"] for row in await environment.rows("SELECT calls FROM attempt_try")] == [1]


async def test_a_declined_charge_in_doubt_is_cancelled_after_its_owner_has_disabled_recharge(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_chargeCustomerFail")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    await environment.settings(tenant, enabled=False)
    environment.advance_clock(timedelta(minutes=1))
    await environment.work()
    environment.advance_clock(timedelta(minutes=2))
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "canceled"
    assert [intent.status for intent in await environment.payment_intents(tenant)] == ["canceled"]


async def test_a_key_in_doubt_waits_for_an_open_purchase_and_is_then_repeated(environment: RechargeEnvironment) -> None:
    tenant = await _loses_an_answer(environment, "error_before")
    await environment.profile(tenant, open_purchases=("pur_1",))
    environment.advance_clock(timedelta(minutes=1))
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "unknown"
    assert environment.charges(tenant) == []
    await environment.profile(tenant, open_purchases=())
    environment.advance_clock(timedelta(minutes=1))
    await environment.work()
    await _is_charged_once(environment, tenant)


async def test_a_listed_payment_intent_of_another_integration_is_ignored(environment: RechargeEnvironment) -> None:
    """It names the attempt in its metadata, is cancelled, and was made without our signing key."""
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("drop_answer", path="/v1/payment_intents")
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["payment_intent"]) == ("unknown", None)
    customer = environment.profiles[tenant].stripe_customer
    assert customer is not None
    forged = await environment.stripe.v1.payment_intents.create_async(
        {
            "amount": attempt["amount_minor"], "currency": attempt["currency"], "customer": customer,
            "metadata": {"prepaid_credits": "v1", "attempt": attempt["attempt"], "tenant": tenant},
        }
    )  # fmt: skip
    await environment.stripe.v1.payment_intents.cancel_async(forged.id)
    environment.advance_clock(timedelta(hours=21))  # the key is not repeated any more: the customer's list is read
    for _ in range(3):
        await environment.work()
        environment.advance_clock(timedelta(minutes=11))
    found = await environment.attempt(tenant)
    assert (found["state"], found["payment_intent"] == forged.id) == ("charged", False)
    assert len(environment.charges(tenant)) == 1
    assert len(await environment.attempts(tenant)) == 1


async def test_a_key_is_not_repeated_once_its_own_card_was_removed(environment: RechargeEnvironment) -> None:
    """Another card is saved, but the key would not charge that one."""
    tenant = await environment.tenant("pm_card_visa", "pm_card_mastercard")
    environment.fault("hang", path="/v1/payment_intents", seconds=HANGING_LONGER_THAN_WE_WAIT_S, commit="never")
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert attempt["state"] == "unknown"
    visa, mastercard = environment.profiles[tenant].cards
    await environment.profile(tenant, cards=(mastercard,), default_payment_method=mastercard.payment_method)
    environment.advance_clock(timedelta(minutes=10))
    await environment.work()
    first = (await environment.attempts(tenant))[0]
    assert (first["reason"], first["canceling"]) == ("card_removed", True)
    assert [row["calls"] for row in await environment.rows("SELECT calls FROM attempt_try")] == [1]
    assert visa.payment_method not in {charge["payment_method"] for charge in environment.charges(tenant)}
