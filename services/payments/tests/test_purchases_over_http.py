"""Purchases over HTTP, on a real database and the simulated Stripe."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from embedded.environment import DEVELOPMENT_SIGNING_KEY
from shared.auth import Scope
from shared.events import EXAMPLES, AttemptChanged
from shared.signed_metadata import verify
from stripe_simulator.testing import RunningSimulator

CREATE = "/api/stripe/create-payment-intent"
CONFIRM = "/api/stripe/confirm-payment-intent"
Call = Callable[..., Any]


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["code"]


async def test_a_package_is_priced_by_the_server_and_signed_into_the_payment_intent(
    buy: Call, stripe_account: RunningSimulator
) -> None:
    bought = await buy("acme", packageId="growth")
    assert (bought["credits"], bought["amountMinor"], bought["currency"]) == (5500, 5000, "usd")
    intent = stripe_account.client().v1.payment_intents.retrieve(bought["paymentIntentId"]).to_dict()
    assert intent["status"] == "requires_payment_method"
    order = verify(intent["metadata"], [DEVELOPMENT_SIGNING_KEY])
    assert (order.tenant, order.credits, order.purchase) == ("acme", 5500, bought["purchaseId"])
    assert stripe_account.get("/books")["charges"] == []


async def test_a_custom_amount_buys_at_the_rate_of_the_best_package_it_would_pay_for(buy: Call) -> None:
    assert (await buy("acme", amountMinor=2000, currency="usd"))["credits"] == 2000
    assert (await buy("acme", amountMinor=7000, currency="USD"))["credits"] == 7700


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"packageId": "nonsense"}, (404, "unknown_package")),
        ({"amountMinor": 49, "currency": "usd"}, (422, "amount_below_minimum")),
        ({"amountMinor": 100_000_000, "currency": "usd"}, (422, "amount_not_chargeable")),
        ({"amountMinor": 5000, "currency": "chf"}, (422, "unknown_currency")),
        ({"packageId": "starter", "credits": 1_000_000}, (422, "invalid_request")),
        ({"packageId": "starter", "amountMinor": 1, "currency": "usd"}, (422, "invalid_request")),
        ({}, (422, "invalid_request")),
    ],
)
async def test_a_purchase_that_cannot_be_priced_is_refused_without_calling_stripe(
    call: Call, stripe_account: RunningSimulator, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    stripe_account.control.delete("/_sim/requests")
    assert problem(await call("acme", "POST", CREATE, body, key="k")) == expected
    assert stripe_account.get("/requests") == []


async def test_a_purchase_needs_an_idempotency_key(call: Call) -> None:
    assert problem(await call("acme", "POST", CREATE, {"packageId": "starter"})) == (400, "idempotency_key_required")


async def test_tokens_are_checked(http: httpx.AsyncClient, token_of: Callable[..., str]) -> None:
    async def with_token(value: str | None) -> httpx.Response:
        headers = {"Idempotency-Key": "k"} | ({"Authorization": f"Bearer {value}"} if value else {})
        return await http.post(CREATE, json={"packageId": "starter"}, headers=headers)

    assert problem(await with_token(None)) == (401, "unauthorized")
    assert problem(await with_token("nonsense")) == (401, "unauthorized")
    assert problem(await with_token(token_of("acme", expires_in_s=-3600))) == (401, "unauthorized")
    assert problem(await with_token(token_of("acme", (Scope.BILLING_READ,)))) == (403, "scope_missing")
    assert problem(await with_token(token_of(None))) == (403, "tenant_required")


async def test_a_repeated_request_gets_the_same_response_and_another_body_is_refused(
    call: Call, stripe_account: RunningSimulator
) -> None:
    first = await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")
    again = await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")
    assert first.json() == again.json()
    other = await call("acme", "POST", CREATE, {"packageId": "growth"}, key="k")
    assert problem(other) == (409, "idempotency_key_reused")
    assert stripe_account.get("/books")["counts"]["payment_intents"] == {"requires_payment_method": 1}


async def test_the_same_key_of_another_tenant_is_another_request(buy: Call) -> None:
    one = await buy("acme", key="k", packageId="starter")
    other = await buy("other", key="k", packageId="starter")
    assert one["purchaseId"] != other["purchaseId"]


async def test_concurrent_duplicates_create_one_payment_intent(call: Call, stripe_account: RunningSimulator) -> None:
    async def create() -> httpx.Response:
        return await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")

    responses = await asyncio.gather(*(create() for _ in range(8)))
    for response in responses:
        assert response.status_code == 200 or problem(response) == (409, "request_under_way")
    answers = {r.json()["paymentIntentId"] for r in [*responses, await create()] if r.status_code == 200}
    assert len(answers) == 1
    counts = stripe_account.get("/books")["counts"]
    assert (counts["payment_intents"], counts["customers"]) == ({"requires_payment_method": 1}, 1)


async def test_concurrent_purchases_share_one_customer(buy: Call, stripe_account: RunningSimulator) -> None:
    await asyncio.gather(*(buy("acme", packageId="starter") for _ in range(4)))
    assert stripe_account.get("/books")["counts"]["customers"] == 1


@pytest.mark.parametrize("kind", ["error_before", "error_after", "drop_answer"])
@pytest.mark.parametrize("path", ["/v1/customers", "/v1/payment_intents"])
async def test_a_request_repeated_after_a_stripe_error_creates_one_payment_intent(
    call: Call, stripe_account: RunningSimulator, kind: str, path: str
) -> None:
    stripe_account.post("/faults", kind=kind, path=path)
    responses = [await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k")]
    if responses[0].status_code != 200:
        assert problem(responses[0]) == (503, "stripe_unavailable")
        assert "Retry-After" in responses[0].headers
        responses.append(await call("acme", "POST", CREATE, {"packageId": "starter"}, key="k"))
    assert responses[-1].status_code == 200, responses[-1].text
    counts = stripe_account.get("/books")["counts"]
    assert (counts["payment_intents"], counts["customers"]) == ({"requires_payment_method": 1}, 1)


async def test_a_purchase_is_refused_during_a_recharge_unless_its_user_insists(call: Call, consume: Call) -> None:
    example = EXAMPLES[AttemptChanged]
    await consume(example.model_copy(update={"tenant": "acme", "state": "charging", "version": 2}))
    body = {"packageId": "starter"}
    assert problem(await call("acme", "POST", CREATE, body, key="k")) == (409, "recharge_under_way")
    insisting = await call("acme", "POST", CREATE, {**body, "insist": True}, key="k")
    assert insisting.status_code == 200
    await consume(example.model_copy(update={"tenant": "acme", "state": "credited", "version": 4}))
    assert (await call("acme", "POST", CREATE, body, key="k2")).status_code == 200


async def test_a_repeated_confirmation_charges_a_saved_card_once(
    call: Call, buy: Call, save_card: Call, stripe_account: RunningSimulator
) -> None:
    card = await save_card("acme")
    bought = await buy("acme", packageId="starter")
    body = {"purchaseId": bought["purchaseId"], "paymentMethodId": card}
    for _ in range(2):
        paid = await call("acme", "POST", CONFIRM, body, key="c")
        assert (paid.status_code, paid.json()["status"]) == (200, "succeeded"), paid.text
        assert paid.json()["clientSecret"] is None
    with_another_key = await call("acme", "POST", CONFIRM, body, key="c2")
    assert with_another_key.json()["status"] == "succeeded"
    assert [charge["amount_minor"] for charge in stripe_account.get("/books")["charges"]] == [1000]


async def test_a_confirmation_is_refused_during_a_recharge(
    call: Call, buy: Call, save_card: Call, consume: Call, stripe_account: RunningSimulator
) -> None:
    cards = [await save_card("acme"), await save_card("acme")]
    body = {"purchaseId": (await buy("acme", packageId="starter"))["purchaseId"]}
    example = EXAMPLES[AttemptChanged].model_copy(update={"tenant": "acme"})
    for version, state in enumerate(("reserved", "charging", "unknown")):
        await consume(example.model_copy(update={"state": state, "version": version + 1}))
        waiting = await call("acme", "POST", CONFIRM, {**body, "paymentMethodId": cards[0]}, key="c")
        assert problem(waiting) == (409, "recharge_under_way")
    assert stripe_account.get("/books")["charges"] == []
    await consume(example.model_copy(update={"state": "credited", "version": 4}))
    paid = await call("acme", "POST", CONFIRM, {**body, "paymentMethodId": cards[1]}, key="c")
    assert (paid.status_code, paid.json()["status"]) == (200, "succeeded"), paid.text
    assert len(stripe_account.get("/books")["charges"]) == 1


@pytest.mark.parametrize("insists_when", ["creating", "confirming"])
async def test_a_confirmation_succeeds_during_a_recharge_where_its_user_insists(
    call: Call, buy: Call, save_card: Call, consume: Call, stripe_account: RunningSimulator, insists_when: str
) -> None:
    card = await save_card("acme")
    under_way = EXAMPLES[AttemptChanged].model_copy(update={"tenant": "acme", "state": "charging"})
    if insists_when == "creating":
        await consume(under_way)
        bought = await buy("acme", packageId="starter", insist=True)
        body = {"purchaseId": bought["purchaseId"], "paymentMethodId": card}
    else:
        bought = await buy("acme", packageId="starter")
        await consume(under_way)
        body = {"purchaseId": bought["purchaseId"], "paymentMethodId": card}
        assert problem(await call("acme", "POST", CONFIRM, body, key="c")) == (409, "recharge_under_way")
        body["insist"] = True
    paid = await call("acme", "POST", CONFIRM, body, key="c")
    assert (paid.status_code, paid.json()["status"]) == (200, "succeeded"), paid.text
    assert len(stripe_account.get("/books")["charges"]) == 1


async def test_a_paid_purchase_is_confirmed_again_also_during_a_recharge(
    call: Call, buy: Call, save_card: Call, consume: Call, stripe_account: RunningSimulator
) -> None:
    card = await save_card("acme")
    bought = await buy("acme", packageId="starter")
    body = {"purchaseId": bought["purchaseId"], "paymentMethodId": card}
    paid = await call("acme", "POST", CONFIRM, body, key="c")
    await consume(EXAMPLES[AttemptChanged].model_copy(update={"tenant": "acme", "state": "charging"}))
    for key in ("c", "c2"):
        again = await call("acme", "POST", CONFIRM, body, key=key)
        assert (again.status_code, again.json()) == (200, paid.json())
    assert len(stripe_account.get("/books")["charges"]) == 1


@pytest.mark.parametrize("kind", ["error_before", "error_after", "drop_answer"])
async def test_a_confirmation_whose_response_was_lost_charges_once(
    call: Call, buy: Call, save_card: Call, stripe_account: RunningSimulator, kind: str
) -> None:
    card = await save_card("acme")
    bought = await buy("acme", packageId="starter")
    stripe_account.post("/faults", kind=kind, path="/v1/payment_intents/*/confirm")
    body = {"purchaseId": bought["purchaseId"], "paymentMethodId": card}
    first = await call("acme", "POST", CONFIRM, body, key="c")
    assert first.status_code == 200 or problem(first) == (503, "stripe_unavailable")
    again = await call("acme", "POST", CONFIRM, body, key="c")
    assert again.json()["status"] == "succeeded"
    assert len(stripe_account.get("/books")["charges"]) == 1


async def test_a_decline_has_its_code_and_another_card_can_pay(
    call: Call, buy: Call, save_card: Call, stripe_account: RunningSimulator
) -> None:
    bad = await save_card("acme", "pm_card_chargeCustomerFail")
    good = await save_card("acme")
    bought = await buy("acme", packageId="starter")
    body = {"purchaseId": bought["purchaseId"], "paymentMethodId": bad}
    declined = await call("acme", "POST", CONFIRM, body, key="c1")
    assert problem(declined) == (402, "card_declined")
    assert declined.json()["declineCode"] == "generic_decline"
    paid = await call("acme", "POST", CONFIRM, body | {"paymentMethodId": good}, key="c2")
    assert paid.json()["status"] == "succeeded"
    assert len(stripe_account.get("/books")["charges"]) == 1


async def test_a_card_that_requires_authentication_returns_the_client_secret(
    call: Call, buy: Call, save_card: Call
) -> None:
    card = await save_card("acme", "pm_card_authenticationRequired")
    bought = await buy("acme", packageId="starter")
    body = {"purchaseId": bought["purchaseId"], "paymentMethodId": card}
    response = await call("acme", "POST", CONFIRM, body, key="c")
    assert (response.status_code, response.json()["status"]) == (200, "requires_action"), response.text
    assert response.json()["clientSecret"] == bought["clientSecret"]


async def test_cards_and_purchases_of_another_tenant_are_not_found(
    call: Call, buy: Call, save_card: Call, stripe_account: RunningSimulator
) -> None:
    theirs, own = await save_card("other"), await save_card("acme")
    bought, theirs_bought = await buy("acme", packageId="starter"), await buy("other", packageId="starter")

    async def confirm(purchase: str, card: str) -> tuple[int, str]:
        body = {"purchaseId": purchase, "paymentMethodId": card}
        return problem(await call("acme", "POST", CONFIRM, body, key=f"{purchase}-{card}"))

    assert await confirm(bought["purchaseId"], theirs) == (404, "unknown_payment_method")
    assert await confirm(bought["purchaseId"], "pm_nobodys") == (404, "unknown_payment_method")
    assert await confirm(theirs_bought["purchaseId"], own) == (404, "unknown_purchase")
    unknown = (404, "unknown_payment_method")
    assert problem(await call("acme", "DELETE", f"/api/stripe/payment-methods/{theirs}")) == unknown
    assert problem(await call("acme", "POST", f"/api/stripe/payment-methods/{theirs}/default")) == unknown
    assert stripe_account.get("/books")["charges"] == []
