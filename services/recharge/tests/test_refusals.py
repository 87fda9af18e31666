"""A 400 of Stripe's is about one card, one customer or one order: other tenants are charged."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from prometheus_client import REGISTRY
from recharge_environment import CATALOG, RechargeEnvironment
from recharge_process import Workers, eventually
from sqlalchemy import text

from embedded.testing import stripe_settings
from recharge.core.answers import (
    Answer,
    CardUnusable,
    NoAnswer,
    NotFound,
    OperatorError,
    OrderRefused,
    RateLimited,
    Refused,
    ServerError,
)
from recharge.core.breakers import (
    EVERYTHING,
    REFUSED_TENANTS_MIN,
    REFUSED_WITHIN,
    OrderFact,
    Scope,
    Subject,
    alert_of,
    may_probe,
    refused_subject,
    tenants_refused,
)
from recharge.core.refusals import CardSeen, CustomerSeen, explain_refusal
from recharge.handlers import on_packages
from recharge.repository.profiles import unfreeze
from recharge.stripe_gateway import StripeGateway, open_stripe_gateway
from stripe_simulator.settings import Settings
from stripe_simulator.testing import run_simulator

NOW = datetime(2026, 9, 15, 12, tzinfo=UTC)
SECONDS = timedelta(seconds=10)
INTENTS = "/v1/payment_intents"
EUROS = tuple(
    package.model_copy(update={"package": f"{package.package}_eur", "currency": "eur"}) for package in CATALOG
)


def _alerts(alert: str) -> float:
    return REGISTRY.get_sample_value("recharge_alerts_total", {"alert": alert}) or 0.0


def _refuse(environment: RechargeEnvironment, **whom: Any) -> None:
    """Stripe answers every charge of these with 400 from now on."""
    environment.fault("refuse", path=INTENTS, count=None, **whom)


def _refuse_tenant(environment: RechargeEnvironment, tenant: str) -> None:
    _refuse(environment, metadata={"tenant": tenant})


async def _work_for(environment: RechargeEnvironment, time: timedelta) -> None:
    """Decides and runs steps every two seconds for this time."""
    end = environment.now + time
    while True:
        await environment.decide_again()
        await environment.work()
        if environment.now >= end:
            return
        environment.advance_clock(timedelta(seconds=2))


async def _is_charged(environment: RechargeEnvironment, *tenants: str) -> None:
    for tenant in tenants:
        assert len(environment.charges(tenant)) == 1, await environment.attempts(tenant)


async def _suspension(environment: RechargeEnvironment, tenant: str) -> str | None:
    rows = await environment.rows("SELECT suspended_reason FROM profile WHERE tenant_id = :t", t=tenant)
    return rows[0]["suspended_reason"]


async def _breaker(environment: RechargeEnvironment) -> str | None:
    return (await environment.rows("SELECT reason FROM breaker WHERE failures > 0") or [{"reason": None}])[0]["reason"]


# One card or customer


async def test_a_detached_card_ends_only_its_own_attempt(environment: RechargeEnvironment) -> None:
    tenant, other = await environment.tenant("pm_card_visa"), await environment.tenant("pm_card_visa")
    await environment.stripe.v1.payment_methods.detach_async(environment.profiles[tenant].cards[0].payment_method)
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["reason"], attempt["action_required"]) == (
        "canceled",
        "card_detached",
        "new_card",
    )
    assert await _suspension(environment, tenant) == "card_detached"
    assert await _breaker(environment) is None
    await _is_charged(environment, other)


async def test_the_card_chosen_after_a_detached_one_is_charged(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa", "pm_card_mastercard")
    visa, mastercard = environment.profiles[tenant].cards
    await environment.stripe.v1.payment_methods.detach_async(visa.payment_method)
    await environment.work()
    assert environment.charges(tenant) == []
    await environment.profile(tenant, cards=(mastercard,), default_payment_method=mastercard.payment_method)
    await environment.work()
    assert [charge["payment_method"] for charge in environment.charges(tenant)] == [mastercard.payment_method]


async def test_the_same_card_saved_again_after_it_was_detached_is_charged(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    profile = environment.profiles[tenant]
    assert profile.stripe_customer is not None
    await environment.stripe.v1.payment_methods.detach_async(profile.cards[0].payment_method)
    await environment.work()
    again = await environment.save_card(profile.stripe_customer, "pm_card_visa")
    assert again.fingerprint == profile.cards[0].fingerprint
    await environment.profile(tenant, cards=(again,), default_payment_method=again.payment_method)
    await environment.work()
    await _is_charged(environment, tenant)


async def test_a_card_of_another_customer_counts_as_detached(environment: RechargeEnvironment) -> None:
    tenant, other = (
        await environment.tenant("pm_card_visa", available=100),
        await environment.tenant("pm_card_mastercard"),
    )
    theirs = environment.profiles[other].cards[0]
    await environment.profile(tenant, cards=(theirs,), default_payment_method=theirs.payment_method)
    await environment.balance(tenant, 10)
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["reason"]) == ("canceled", "card_detached")
    assert (environment.charges(tenant), await _breaker(environment)) == ([], None)
    await _is_charged(environment, other)


async def test_a_deleted_customer_stops_only_its_own_tenant(environment: RechargeEnvironment) -> None:
    tenant, other = await environment.tenant("pm_card_visa"), await environment.tenant("pm_card_visa")
    customer = environment.profiles[tenant].stripe_customer
    assert customer is not None
    await environment.stripe.v1.customers.delete_async(customer)
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["reason"]) == ("canceled", "customer_gone")
    assert (await _suspension(environment, tenant), await _breaker(environment)) == ("customer_gone", None)
    await _is_charged(environment, other)


async def test_a_customer_of_another_account_stops_only_its_own_tenant(environment: RechargeEnvironment) -> None:
    tenant, other = await environment.tenant("pm_card_visa"), await environment.tenant("pm_card_visa")
    await environment.profile(tenant, stripe_customer="cus_of_another_account")
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["reason"]) == ("canceled", "charge_refused"), "and nothing is left in doubt"
    assert (await _suspension(environment, tenant), await _breaker(environment)) == ("charge_refused", None)
    await _is_charged(environment, other)


async def test_an_api_key_of_another_account_stops_all_tenants_until_it_is_corrected(
    environment: RechargeEnvironment,
) -> None:
    """Three tenants are suspended before the cause is clear; an operator lifts that."""
    tenants = [await environment.tenant("pm_card_visa") for _ in range(8)]
    right = environment.steps.gateway
    with run_simulator() as another:
        async with open_stripe_gateway(stripe_settings(another.url, Settings.secret_key)) as wrong:
            environment.use_gateway(wrong)
            await environment.work()
    environment.use_gateway(right)
    suspended = [tenant for tenant in tenants if await _suspension(environment, tenant)]
    assert len(suspended) <= REFUSED_TENANTS_MIN
    for tenant in suspended:
        async with environment.engine.begin() as connection:
            assert await unfreeze(connection, tenant)
    for _ in range(30):
        environment.advance_clock(timedelta(minutes=1))
        await environment.decide_again()
        await environment.work()
    assert [len(environment.charges(tenant)) for tenant in tenants] == [1] * 8


async def test_a_card_detached_between_two_tries_has_the_payment_intent_cancelled(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_chargeCustomerFail")
    await environment.work()
    await environment.stripe.v1.payment_methods.detach_async(environment.profiles[tenant].cards[0].payment_method)
    environment.advance_clock(timedelta(hours=2))
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["reason"]) == ("canceled", "card_detached")
    assert [intent.status for intent in await environment.payment_intents(tenant)] == ["canceled"]


@pytest.mark.parametrize("path", ["/v1/payment_methods/*", "/v1/customers/*"])
@pytest.mark.parametrize("kind", ["rate_limit", "error_before"])
async def test_a_refusal_that_cannot_be_explained_now_is_retried(
    environment: RechargeEnvironment, path: str, kind: str
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("refuse", path=INTENTS)
    environment.fault(kind, method="GET", path=path)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "reserved"
    assert (await _suspension(environment, tenant), await _breaker(environment)) == (None, None)
    environment.advance_clock(SECONDS)
    await environment.work()
    await _is_charged(environment, tenant)


# One order


async def test_a_refused_order_ends_once_nothing_is_proven_made_while_others_are_charged(
    environment: RechargeEnvironment,
) -> None:
    alerted = _alerts("charge_refused")
    tenant = await environment.tenant("pm_card_visa")
    others = [await environment.tenant("pm_card_visa") for _ in range(5)]
    _refuse_tenant(environment, tenant)
    await environment.work()
    await _is_charged(environment, *others)
    attempt = await environment.attempt(tenant)
    assert (attempt["reason"], attempt["canceling"], attempt["state"]) == ("charge_refused", True, "declined")
    assert await _suspension(environment, tenant) == "charge_refused"
    assert _alerts("charge_refused") == alerted + 1
    environment.advance_clock(timedelta(minutes=11))
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["reason"], attempt["reserved_month"]) == ("canceled", "charge_refused", None)
    assert [
        row["outcome"]
        for row in await environment.rows("SELECT outcome FROM attempt_try WHERE tenant_id = :t", t=tenant)
    ] == ["never_made"]
    environment.advance_clock(timedelta(days=2))
    await environment.balance(tenant, 5)
    await environment.work()
    assert (await environment.last_reason(tenant), len(await environment.attempts(tenant))) == ("suspended", 1)


async def test_a_currency_refused_to_one_tenant_stops_no_other(environment: RechargeEnvironment) -> None:
    await environment.receive(on_packages, *EUROS)
    tenant = await environment.tenant("pm_card_visa", currency="eur")
    others = [await environment.tenant("pm_card_visa") for _ in range(5)]
    _refuse(environment, currency="eur")
    await environment.work()
    await _is_charged(environment, *others)
    assert environment.charges(tenant) == []
    assert (await _suspension(environment, tenant), await _breaker(environment)) == ("charge_refused", None)


async def test_a_charge_before_the_refusal_of_its_order_is_found_and_credited(
    environment: RechargeEnvironment,
) -> None:
    """The first call was executed and its answer lost; the second is refused, which proves nothing about the first."""
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("drop_answer", path=INTENTS)
    await environment.work()
    environment.simulator.post(
        "/clock/advance", seconds=timedelta(hours=25).total_seconds()
    )  # Stripe has forgotten the key
    _refuse_tenant(environment, tenant)
    environment.advance_clock(SECONDS)
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "charged"
    await environment.credit(tenant)
    assert (await environment.attempt(tenant))["state"] == "credited"
    await _is_charged(environment, tenant)


async def test_an_order_refused_after_a_call_in_doubt_ends_only_when_the_key_is_forgotten(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    environment.fault("error_before", path=INTENTS, kept=False)
    await environment.work()
    _refuse_tenant(environment, tenant)
    environment.advance_clock(SECONDS)
    await environment.work()
    for later in (timedelta(minutes=11), timedelta(minutes=11)):
        environment.advance_clock(later)
        await environment.work()
        assert (await environment.attempt(tenant))["state"] != "canceled"
    environment.advance_clock(timedelta(hours=24))
    await environment.work()
    assert (await environment.attempt(tenant))["state"] == "canceled"
    assert await environment.payment_intents(tenant) == []


async def test_a_try_that_is_refused_after_a_decline_has_the_payment_intent_cancelled(
    environment: RechargeEnvironment,
) -> None:
    tenant = await environment.tenant("pm_card_chargeCustomerFail")
    await environment.work()
    environment.fault("refuse", path=f"{INTENTS}/*/confirm", count=None)
    environment.advance_clock(timedelta(hours=2))
    await environment.work()
    attempt = await environment.attempt(tenant)
    assert (attempt["state"], attempt["reason"]) == ("canceled", "charge_refused")
    assert [intent.status for intent in await environment.payment_intents(tenant)] == ["canceled"]


async def test_an_operator_lifts_the_suspension_of_a_refused_order(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    _refuse_tenant(environment, tenant)
    await environment.work()
    environment.simulator.control.delete("/_sim/faults")
    environment.advance_clock(timedelta(minutes=11))
    await environment.work()
    async with environment.engine.begin() as connection:
        assert await unfreeze(connection, tenant)
    await environment.decide_again()
    await environment.work()
    await _is_charged(environment, tenant)
    async with environment.engine.begin() as connection:
        assert not await unfreeze(connection, tenant)


# Several tenants


async def test_a_package_refused_to_several_tenants_is_the_only_one_stopped(environment: RechargeEnvironment) -> None:
    alerted = _alerts("package_refused")
    _refuse(environment, metadata={"credits": "1000"})
    refused = [await environment.tenant("pm_card_visa") for _ in range(REFUSED_TENANTS_MIN)]
    await environment.work()
    assert [await _suspension(environment, tenant) for tenant in refused] == ["charge_refused"] * len(refused)
    assert _alerts("package_refused") == alerted + 1
    waiting = await environment.tenant("pm_card_visa")
    small = await environment.tenant("pm_card_visa", amount_minor=500)
    await environment.work()
    assert (await environment.last_reason(waiting), await _breaker(environment)) == ("breaker_open", None)
    await _is_charged(environment, small)
    assert await _suspension(environment, waiting) is None
    await _work_for(environment, timedelta(minutes=2))
    assert await _suspension(environment, waiting) is None, "a probe that is refused too is none of its tenant's"
    assert _alerts("package_refused") == alerted + 1
    environment.simulator.control.delete("/_sim/faults")
    await _work_for(environment, timedelta(minutes=10))
    await _is_charged(environment, waiting)
    assert await environment.rows("SELECT 1 FROM scoped_breaker") == []


async def test_a_new_version_of_a_refused_package_is_tried_at_once(environment: RechargeEnvironment) -> None:
    _refuse(environment, metadata={"credits": "1000"})
    for _ in range(REFUSED_TENANTS_MIN):
        await environment.tenant("pm_card_visa")
    await environment.work()
    waiting = await environment.tenant("pm_card_visa")
    assert await environment.last_reason(waiting) == "breaker_open"
    await environment.receive(on_packages, CATALOG[1].model_copy(update={"version": 2, "credits": 1_100}))
    environment.advance_clock(timedelta(seconds=16))
    await environment.decide_again()
    await environment.work()
    await _is_charged(environment, waiting)


async def test_refusals_recorded_at_the_same_time_are_counted_together(
    environment: RechargeEnvironment,
) -> None:
    """None is committed while the others are recorded: each has to wait until it sees the others."""
    _refuse(environment)
    tenants = [await environment.tenant("pm_card_visa") for _ in range(REFUSED_TENANTS_MIN)]
    await environment.refresh_progress()
    attempts = [(tenant, (await environment.attempt(tenant))["attempt"]) for tenant in tenants]

    async def all_wait() -> bool:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return len(await environment.rows(waiting)) == REFUSED_TENANTS_MIN

    async with environment.engine.connect() as holder:
        await holder.execute(text("SELECT id FROM breaker FOR UPDATE"))
        working = asyncio.gather(*(environment.steps.run(tenant, attempt) for tenant, attempt in attempts))
        await eventually(all_wait, "every refusal waits for the lock", timeout_s=15)
        await holder.rollback()
    await working
    assert await environment.rows("SELECT name FROM scoped_breaker") == [{"name": "medium"}]


async def test_a_tenant_that_is_always_refused_does_not_delay_others(workers: Workers) -> None:
    environment = workers.environment
    refused, *others = [await environment.make_tenant("pm_card_visa", available=10) for _ in range(6)]
    _refuse_tenant(environment, refused)
    await workers.start()
    await workers.publish(*CATALOG, *(environment.profiles[tenant] for tenant in (refused, *others)))
    await workers.publish(*(environment.balances[tenant] for tenant in (refused, *others)))
    begun_s = asyncio.get_running_loop().time()
    for tenant in others:
        await workers.state_is(tenant, "charged")
    took_s = asyncio.get_running_loop().time() - begun_s
    print(f"five others charged within {took_s:.2f} s")
    assert took_s < 10
    assert (await workers.state_is(refused, "declined"))["reason"] == "charge_refused"


async def test_a_currency_refused_to_several_tenants_is_the_only_one_stopped(environment: RechargeEnvironment) -> None:
    alerted = _alerts("currency_refused")
    await environment.receive(on_packages, *EUROS)
    _refuse(environment, currency="eur")
    for amount_minor in (500, 4_500, 20_000):
        await environment.tenant("pm_card_visa", currency="eur", amount_minor=amount_minor)
    await environment.work()
    assert (_alerts("currency_refused"), await _breaker(environment)) == (alerted + 1, None)
    euros = await environment.tenant("pm_card_visa", currency="eur", amount_minor=500)
    dollars = await environment.tenant("pm_card_visa")
    await environment.work()
    assert (await environment.last_reason(euros), environment.charges(euros)) == ("breaker_open", [])
    await _is_charged(environment, dollars)


async def test_refusals_in_several_currencies_stop_everything(
    environment: RechargeEnvironment,
) -> None:
    alerted = _alerts("everything_refused")
    await environment.receive(on_packages, *EUROS)
    _refuse(environment)
    await environment.tenant("pm_card_visa", currency="eur")
    for amount_minor in (500, 4_500):
        await environment.tenant("pm_card_visa", amount_minor=amount_minor)
    await environment.work()
    assert _alerts("everything_refused") == alerted + 1
    other = await environment.tenant("pm_card_visa", amount_minor=20_000, monthly_cap_minor=40_000)
    await environment.work()
    assert (await environment.last_reason(other), environment.charges(other)) == ("breaker_open", [])
    await _work_for(environment, timedelta(minutes=2))
    assert await _suspension(environment, other) is None
    environment.simulator.control.delete("/_sim/faults")
    await _work_for(environment, timedelta(minutes=10))
    await _is_charged(environment, other)
    assert await _breaker(environment) is None


async def test_refusals_far_apart_in_time_are_each_tenants_own(environment: RechargeEnvironment) -> None:
    tenants = [await environment.tenant("pm_card_visa", available=100) for _ in range(REFUSED_TENANTS_MIN)]
    for tenant in tenants:
        _refuse_tenant(environment, tenant)
        await environment.balance(tenant, 10)
        await environment.work()
        environment.advance_clock(REFUSED_WITHIN)
    other = await environment.tenant("pm_card_visa")
    await environment.work()
    await _is_charged(environment, other)


async def test_refusals_while_the_same_package_is_charged_to_others_are_each_tenants_own(
    environment: RechargeEnvironment,
) -> None:
    tenants = [await environment.tenant("pm_card_visa", available=100) for _ in range(REFUSED_TENANTS_MIN)]
    for tenant in tenants:
        _refuse_tenant(environment, tenant)
        await environment.balance(tenant, 10)
        other = await environment.tenant("pm_card_visa")
        await environment.work()
        await _is_charged(environment, other)
    assert await environment.rows("SELECT 1 FROM scoped_breaker") == []


# The breaker of everything, and its probe


class _Answering(StripeGateway):
    """Stripe, answering every charge with this."""

    def __init__(self, answer: Answer) -> None:
        self._said = answer

    async def create(self, parameters: Mapping[str, Any], key: str) -> Answer:
        return self._said


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_api_key_opens_the_breaker_and_suspends_no_tenant(
    environment: RechargeEnvironment, status: int
) -> None:
    alerted = _alerts("stripe_access_refused")
    tenant, other = await environment.tenant("pm_card_visa"), await environment.tenant("pm_card_visa")
    steps = environment.steps
    environment.use_gateway(_Answering(OperatorError(status, "error")))
    await environment.work()
    environment.steps = steps
    assert await _breaker(environment) == f"stripe_{status}_error"
    assert _alerts("stripe_access_refused") == alerted + 1
    assert await environment.rows("SELECT 1 FROM profile WHERE suspended_at IS NOT NULL") == []
    await _work_for(environment, timedelta(seconds=30))
    await _is_charged(environment, tenant, other)


async def test_the_probe_is_taken_by_another_tenant_than_the_one_that_failed(environment: RechargeEnvironment) -> None:
    tenant = await environment.tenant("pm_card_visa")
    await _fail_with_wrong_key(environment)
    other = await environment.tenant("pm_card_visa", available=100)
    await environment.balance(other, 10)
    _refuse_tenant(environment, tenant)
    environment.advance_clock(timedelta(seconds=16))
    await environment.decide_again()
    await environment.work()
    await _is_charged(environment, other)
    assert await _breaker(environment) is None
    environment.advance_clock(SECONDS)
    await environment.work()
    assert await _suspension(environment, tenant) == "charge_refused"


@pytest.mark.parametrize("trouble", ["refused", "detached"])
async def test_a_probe_that_fails_for_its_tenants_own_reason_does_not_keep_the_breaker_open(
    environment: RechargeEnvironment, trouble: str
) -> None:
    tenant = await environment.tenant("pm_card_visa")
    await _fail_with_wrong_key(environment)
    if trouble == "refused":
        _refuse_tenant(environment, tenant)
    else:
        await environment.stripe.v1.payment_methods.detach_async(environment.profiles[tenant].cards[0].payment_method)
    environment.advance_clock(timedelta(seconds=25))
    await environment.work()  # it is the only one, so it becomes the probe in the end
    assert await _breaker(environment) is None
    other = await environment.tenant("pm_card_visa")
    await environment.work()
    await _is_charged(environment, other)


async def test_after_a_probe_with_a_detached_card_another_tenant_probes(environment: RechargeEnvironment) -> None:
    """It says nothing about a package that was refused to others: the next charge is the probe for that."""
    _refuse(environment, metadata={"credits": "1000"})
    for _ in range(REFUSED_TENANTS_MIN):
        await environment.tenant("pm_card_visa")
    await environment.work()
    environment.simulator.control.delete("/_sim/faults")
    environment.advance_clock(timedelta(seconds=16))
    detached = await environment.tenant("pm_card_visa")
    await environment.stripe.v1.payment_methods.detach_async(environment.profiles[detached].cards[0].payment_method)
    await environment.work()
    assert await _suspension(environment, detached) == "card_detached"
    other = await environment.tenant("pm_card_visa")
    await environment.work()
    await _is_charged(environment, other)


async def test_one_probe_is_made_at_a_time(environment: RechargeEnvironment) -> None:
    tenants = [await environment.tenant("pm_card_visa") for _ in range(4)]
    await _fail_with_wrong_key(environment)
    environment.advance_clock(timedelta(seconds=16))
    await environment.refresh_progress()
    environment.fault("hang", path=INTENTS, seconds=5.0, commit="never")
    for tenant in tenants:
        await environment.steps.run(tenant, (await environment.attempt(tenant))["attempt"])
    states = [(await environment.attempt(tenant))["state"] for tenant in tenants]
    assert (states.count("unknown"), states.count("reserved")) == (1, 3)


async def _fail_with_wrong_key(environment: RechargeEnvironment) -> None:
    steps = environment.steps
    wrong: AbstractAsyncContextManager[StripeGateway] = environment.gateway_with_key("sk_test_wrong")
    async with wrong as gateway:
        environment.use_gateway(gateway)
        await environment.work()
    environment.steps = steps
    assert await _breaker(environment) is not None


# The decisions


CARD, CUSTOMER = CardSeen("cus_1"), CustomerSeen(is_deleted=False)


@pytest.mark.parametrize(
    ("card", "owner", "means"),
    [
        (CARD, CUSTOMER, OrderRefused("error")),
        (CardSeen(None), CUSTOMER, CardUnusable("card_detached")),
        (CardSeen("cus_2"), CUSTOMER, CardUnusable("card_detached")),
        (NotFound(), CUSTOMER, CardUnusable("card_detached")),
        (CardSeen(None), CustomerSeen(is_deleted=True), CardUnusable("customer_gone")),
        (CARD, NotFound(), OrderRefused("customer_not_in_this_account", made_nothing=True)),
        (NoAnswer("time_out"), NotFound(), OrderRefused("customer_not_in_this_account", made_nothing=True)),
        (NoAnswer("time_out"), CUSTOMER, Refused("error")),
        (CARD, ServerError(500), Refused("error")),
        (RateLimited(), CUSTOMER, Refused("error")),
        (OperatorError(401, "expired"), OperatorError(401, "expired"), Refused("error")),
        (OperatorError(403, "no_permission"), OperatorError(403, "no_permission"), OrderRefused("error")),
        (Refused("error"), CUSTOMER, OrderRefused("error")),
    ],
)
def test_a_400_is_explained_by_its_card_and_customer(
    card: CardSeen | Answer, owner: CustomerSeen | Answer, means: Answer
) -> None:
    assert explain_refusal(Refused("error"), "cus_1", card, owner) == means


def _fact(tenant: str, package: str, currency: str, seconds_ago: float = 0) -> OrderFact:
    return OrderFact(tenant, package, currency, NOW - timedelta(seconds=seconds_ago))


A, B, C = (_fact(tenant, "p", "usd", 3) for tenant in "abc")
PACKAGE, USD = Subject(Scope.PACKAGE, "p"), Subject(Scope.CURRENCY, "usd")


@pytest.mark.parametrize(
    ("refusals", "charged", "stopped", "subject"),
    [
        ([A, B], [], [], None),
        ([A, A, A, B], [], [], None),
        ([A, B, C], [], [], PACKAGE),
        ([A, B, _fact("c", "p", "usd", 301)], [], [], None),
        ([A, B, _fact("c", "q", "usd")], [], [], USD),
        ([A, B, _fact("c", "q", "eur")], [], [], EVERYTHING),
        ([A, B, C, _fact("d", "q", "eur")], [], [PACKAGE], None),
        ([A, B, C, _fact("d", "q", "usd")], [], [PACKAGE], None),
        ([A, B, C], [], [USD], None),
        ([A, B, C], [_fact("d", "p", "usd", 1)], [], None),
        ([A, B, C], [_fact("d", "p", "usd", 4)], [], PACKAGE),
        ([A, B, C], [_fact("d", "q", "usd", 1)], [], PACKAGE),
        ([A, B, _fact("c", "q", "usd")], [_fact("d", "r", "eur", 1)], [], USD),
        ([A, B, _fact("c", "q", "usd")], [_fact("d", "r", "usd", 1)], [], None),
        ([A, B, _fact("c", "q", "eur")], [_fact("d", "r", "gbp", 1)], [], None),
    ],
)
def test_the_narrowest_subject_that_several_tenants_share_is_stopped(
    refusals: list[OrderFact], charged: list[OrderFact], stopped: list[Subject], subject: Subject | None
) -> None:
    for shuffled in permutations(refusals):
        assert refused_subject(shuffled, charged, frozenset(stopped), NOW) == subject


@pytest.mark.parametrize(
    ("tenant", "seconds_later", "is_another_due", "may"),
    [
        ("other", -1, False, False),
        ("other", 0, True, True),
        ("failed", 0, False, False),
        ("failed", 5, False, True),
        ("failed", 5, True, False),
    ],
)
def test_a_tenant_that_has_failed_leaves_the_probe_to_others(
    tenant: str, seconds_later: int, is_another_due: bool, may: bool
) -> None:
    now = NOW + timedelta(seconds=seconds_later)
    assert may_probe(tenant, {"failed"}, NOW, now, is_another_due=is_another_due) is may


def test_the_alert_and_the_tenants_of_a_breaker_are_those_of_its_subject() -> None:
    refusals = [OrderFact("a", "medium", "usd", NOW), OrderFact("b", "small", "usd", NOW)]
    small = Subject(Scope.PACKAGE, "small")
    assert (alert_of(small), tenants_refused(small, refusals)) == ("package_refused", ["b"])
    assert (alert_of(EVERYTHING), tenants_refused(EVERYTHING, refusals)) == ("everything_refused", ["a", "b"])
