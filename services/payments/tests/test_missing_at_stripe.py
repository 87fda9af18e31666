"""Customers, cards and PaymentIntents that Stripe no longer has and of which no event came: deleted while events were
lost, or of another account or mode. And responses that only look like it, such as a proxy's."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from embedded.testing import stripe_settings
from payments.jobs.sweeper import Sweeper
from payments.stripe_gateway import StripeGateway, StripeMisconfigured, StripeUnavailable, open_stripe_gateway
from payments.workflows.context import WorkflowContext
from shared.clock import utc_now
from shared.events import EXAMPLES, AttemptChanged
from shared.faults import hold_at
from stripe_simulator.proxies import PAGES, Page, proxy
from stripe_simulator.testing import RunningSimulator


class Crashed(Exception):
    """Simulates a process that ends before it calls Stripe."""


CREATE = "/api/stripe/create-payment-intent"
CONFIRM = "/api/stripe/confirm-payment-intent"
CARDS = "/api/stripe/payment-methods"
Call = Callable[..., Any]


async def customer_of(rows: Call, tenant: str = "acme") -> tuple[str | None, int]:
    [row] = await rows("SELECT stripe_customer, generation FROM customer WHERE tenant_id = :tenant", tenant=tenant)
    return row.stripe_customer, row.generation


async def cards_of(call: Call, tenant: str = "acme") -> list[str]:
    listed = await call(tenant, "GET", CARDS)
    return [each["paymentMethodId"] for each in listed.json()["paymentMethods"]]


async def states(rows: Call) -> list[str]:
    return [row.state for row in await rows("SELECT state FROM purchase ORDER BY purchase_id")]


def at_stripe(account: RunningSimulator, kind: str = "customers") -> int:
    return sum(account.get("/books")["counts"].get(kind, {}).values())


async def test_tenants_can_buy_and_save_cards_in_another_stripe_account(
    call: Call, buy: Call, rows: Call, save_card: Call, stripe_account: RunningSimulator
) -> None:
    card = await save_card("acme")
    before, _ = await customer_of(rows)
    stripe_account.post("/reset")  # as another account, which has none of our objects
    bought = await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")
    assert bought.status_code == 200, bought.text
    after, generation = await customer_of(rows)
    assert (after != before, generation) == (True, 2)
    assert await cards_of(call) == [], "the missing card is not shown"
    [profile] = await rows("SELECT default_payment_method FROM profile")
    assert profile.default_payment_method is None
    saved = await save_card("acme", "pm_card_mastercard")
    assert await cards_of(call) == [saved]
    assert saved != card
    paid = await call(
        "acme", "POST", CONFIRM, {"purchaseId": bought.json()["purchaseId"], "paymentMethodId": saved}, key="pay"
    )
    assert (paid.status_code, paid.json()["status"]) == (200, "succeeded")


async def test_a_card_is_saved_for_a_new_customer_where_the_old_one_is_missing(
    call: Call, rows: Call, save_card: Call, stripe_account: RunningSimulator
) -> None:
    await save_card("acme")
    stripe_account.post("/reset")
    begun = await call("acme", "POST", "/api/stripe/create-setup-intent")
    assert begun.status_code == 200, begun.text
    assert (await customer_of(rows))[1] == 2
    assert await cards_of(call) == []


async def test_concurrent_requests_create_one_new_customer(
    call: Call, buy: Call, rows: Call, stripe_account: RunningSimulator
) -> None:
    await buy("acme", packageId="starter")
    stripe_account.post("/reset")
    answers = await asyncio.gather(
        *(call("acme", "POST", CREATE, {"packageId": "starter"}, key=f"k{n}") for n in range(5)),
        *(call("acme", "POST", "/api/stripe/create-setup-intent") for _ in range(3)),
    )
    assert {each.status_code for each in answers} <= {200, 409}, [each.text for each in answers]
    again = [await call("acme", "POST", CREATE, {"packageId": "starter"}, key=f"k{n}") for n in range(5)]
    assert [each.status_code for each in again] == [200] * 5, [each.text for each in again]
    assert (await customer_of(rows))[1] == 2
    assert len(stripe_account.client().v1.customers.list().data) == 1


async def test_the_next_purchase_replaces_a_customer_whose_deletion_event_was_lost(
    call: Call, buy: Call, rows: Call, save_card: Call, stripe_account: RunningSimulator
) -> None:
    await save_card("acme")
    before, _ = await customer_of(rows)
    assert before is not None
    stripe_account.client().v1.customers.delete(before)
    await buy("acme", packageId="starter")
    assert (await customer_of(rows))[0] not in (None, before)
    assert await cards_of(call) == []


async def test_an_older_purchase_continues_with_the_new_customer(
    call: Call, buy: Call, rows: Call, stripe_account: RunningSimulator
) -> None:
    await buy("acme", packageId="starter")
    before, _ = await customer_of(rows)

    async def crash() -> None:
        hold_at("payments.purchase_committed", None)
        raise Crashed

    hold_at("payments.purchase_committed", crash)
    first = await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")
    assert first.status_code == 500
    stripe_account.client().v1.customers.delete(cast("str", before))
    second = await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")
    assert second.status_code == 200, second.text
    [row] = await rows(
        "SELECT create_parameters ->> 'customer' AS customer FROM purchase WHERE purchase_id = :p",
        p=second.json()["purchaseId"],
    )
    assert row.customer == (await customer_of(rows))[0] != before


async def test_confirmation_with_a_missing_card_is_refused_and_removes_the_card(
    call: Call, buy: Call, rows: Call, save_card: Call, stripe_account: RunningSimulator
) -> None:
    card, other = await save_card("acme"), await save_card("acme", "pm_card_mastercard")
    purchase = await buy("acme", packageId="starter")
    stripe_account.client().v1.payment_methods.detach(card)  # in the dashboard; the event is lost
    body = {"purchaseId": purchase["purchaseId"], "paymentMethodId": card}
    refused = await call("acme", "POST", CONFIRM, body, key="pay")
    assert (refused.status_code, refused.json()["code"]) == (409, "card_gone")
    assert await cards_of(call) == [other]
    [profile] = await rows("SELECT default_payment_method, version FROM profile")
    assert profile.default_payment_method is None
    paid = await call("acme", "POST", CONFIRM, body | {"paymentMethodId": other}, key="pay with another")
    assert paid.status_code == 200, paid.text


async def test_confirmation_of_another_accounts_payment_intent_cancels_the_purchase(
    call: Call, buy: Call, rows: Call, save_card: Call, stripe_account: RunningSimulator
) -> None:
    card = await save_card("acme")
    purchase = await buy("acme", packageId="starter")
    stripe_account.post("/reset")
    body = {"purchaseId": purchase["purchaseId"], "paymentMethodId": card}
    refused = await call("acme", "POST", CONFIRM, body, key="pay")
    assert (refused.status_code, refused.json()["code"]) == (409, "card_gone")
    assert await states(rows) == ["canceled"]
    assert await cards_of(call) == []


async def test_the_sweeper_cancels_purchases_of_another_account(
    buy: Call, rows: Call, stripe_account: RunningSimulator, sweeper: Sweeper, clock: Any
) -> None:
    await buy("acme", packageId="starter")
    stripe_account.post("/reset")
    clock.advance(minutes=31)
    await sweeper.sweep_purchases()
    assert await states(rows) == ["canceled"]


async def test_a_refused_default_repair_records_the_missing_customer(
    call: Call, rows: Call, save_card: Call, stripe_account: RunningSimulator, sweeper: Sweeper
) -> None:
    await save_card("acme")
    stripe_account.post("/reset")
    await sweeper.repair_defaults()
    assert (await customer_of(rows)) == (None, 2)
    assert await cards_of(call) == []


async def test_cards_are_retrieved_after_recharge_found_one_detached(
    call: Call, rows: Call, save_card: Call, consume: Call, stripe_account: RunningSimulator, sweeper: Sweeper
) -> None:
    card, other = await save_card("acme"), await save_card("acme", "pm_card_mastercard")
    stripe_account.client().v1.payment_methods.detach(card)
    example = cast("AttemptChanged", EXAMPLES[AttemptChanged])
    await consume(example.model_copy(update={"tenant": "acme", "state": "declined", "reason": "card_detached"}))
    await sweeper.sweep_cards()
    assert await cards_of(call) == [other]


async def test_a_missing_customer_detaches_all_its_cards(
    call: Call, rows: Call, save_card: Call, consume: Call, stripe_account: RunningSimulator, sweeper: Sweeper
) -> None:
    await save_card("acme")
    await save_card("acme", "pm_card_mastercard")
    stripe_account.post("/reset")
    example = cast("AttemptChanged", EXAMPLES[AttemptChanged])
    await consume(example.model_copy(update={"tenant": "acme", "state": "declined", "reason": "customer_gone"}))
    await sweeper.sweep_cards()
    assert await cards_of(call) == []
    assert await customer_of(rows) == (None, 2)


async def test_the_sweeper_asks_again_where_stripe_gave_no_answer_about_a_customer(
    call: Call, rows: Call, save_card: Call, stripe_account: RunningSimulator, sweeper: Sweeper, clock: Any
) -> None:
    await save_card("acme")
    await save_card("acme", "pm_card_mastercard")
    stripe_account.post("/reset")
    await rows(
        "UPDATE card SET look_at = now() WHERE payment_method = (SELECT min(payment_method) FROM card) RETURNING 1"
    )
    stripe_account.post("/faults", kind="error_before", method="GET", path="/v1/customers/*", kept=False)
    await sweeper.sweep_cards()
    assert len(await cards_of(call)) == 2, "without an answer about the customer nothing changes"
    clock.advance(minutes=10)
    await sweeper.sweep_cards()
    assert await cards_of(call) == []
    assert await customer_of(rows) == (None, 2)


async def _results_of_all_calls(gateway: StripeGateway) -> list[object]:
    """What each call returns or raises."""
    calls = (
        gateway.has_customer("cus_1"),
        gateway.retrieve_payment_method("pm_1"),
        gateway.retrieve_payment_intent("pi_1"),
        gateway.cancel_payment_intent("pi_1"),
        gateway.confirm_payment_intent("pi_1", "pm_1", "key"),
        gateway.create_customer({"description": "x"}, "key"),
        gateway.create_payment_intent({"amount": 100, "currency": "usd"}, "key"),
        gateway.create_setup_intent({"usage": "off_session"}),
        gateway.find_payment_intent({"customer": "cus_1"}, utc_now()),
        gateway.find_customer({"a": "b"}, utc_now()),
    )
    return list(await asyncio.gather(*calls, return_exceptions=True))


@pytest.mark.parametrize("page", PAGES, ids=str)
async def test_a_response_that_is_not_from_stripe_is_unavailable(page: Page) -> None:
    with proxy(page) as url:
        async with open_stripe_gateway(stripe_settings(url, "sk_test_x")) as gateway:
            results = await _results_of_all_calls(gateway)
    assert [type(each) for each in results] == [StripeUnavailable] * len(results), results
    assert not any(each.is_answered for each in results if isinstance(each, StripeUnavailable))


async def test_a_404_of_a_proxy_does_not_count_as_missing(
    call: Call, buy: Call, rows: Call, save_card: Call, worker_engine: Any, outbox: Any, clock: Any
) -> None:
    card = await save_card("acme")
    await buy("acme", packageId="starter")
    before = await customer_of(rows)
    with proxy(PAGES[0]) as url:
        async with open_stripe_gateway(stripe_settings(url, "sk_test_x")) as gateway:
            sweeper = Sweeper(WorkflowContext(worker_engine, outbox, gateway, clock))
            clock.advance(minutes=31)
            await rows("UPDATE card SET look_at = now() RETURNING 1")
            await sweeper.sweep_purchases()
            await sweeper.sweep_cards()
            await sweeper.repair_defaults()
    assert await states(rows) == ["open"]
    assert await cards_of(call) == [card]
    assert await customer_of(rows) == before


async def test_a_card_of_the_current_customer_is_kept_where_an_old_purchase_has_a_missing_one(
    call: Call, buy: Call, rows: Call, save_card: Call, stripe_account: RunningSimulator
) -> None:
    purchase = await buy("acme", packageId="starter")
    before, _ = await customer_of(rows)
    stripe_account.client().v1.customers.delete(cast("str", before))
    card = await save_card("acme")  # of the new customer
    body = {"purchaseId": purchase["purchaseId"], "paymentMethodId": card}
    refused = await call("acme", "POST", CONFIRM, body, key="pay")
    assert (refused.status_code, refused.json()["code"]) == (409, "stripe_refused")
    assert await cards_of(call) == [card]
    [profile] = await rows("SELECT default_payment_method FROM profile")
    assert profile.default_payment_method == card


async def test_a_key_of_the_other_mode_does_not_count_as_missing() -> None:
    error = {
        "type": "invalid_request_error", "code": "resource_missing", "param": "customer",
        "message": "No such customer: 'cus_1'; a similar object exists in live mode, but a test mode key was used.",
    }  # fmt: skip
    with proxy(Page(404, "application/json", json.dumps({"error": error}).encode())) as url:
        async with open_stripe_gateway(stripe_settings(url, "sk_test_x")) as gateway:
            for asked in (
                gateway.has_customer("cus_1"),
                gateway.retrieve_payment_method("pm_1"),
                gateway.retrieve_payment_intent("pi_1"),
            ):
                with pytest.raises(StripeMisconfigured):
                    await asked
