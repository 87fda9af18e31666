"""An order is credited once: a PaymentIntent with copied metadata becomes an unapplied receipt."""

import asyncio

import httpx
import pytest

from ledger.core.accounts import Kind
from ledger.core.commands import Conflict, Credit, NothingPosted, Posted
from shared.auth import Scope

from .books import Books
from .builders import purchase, refund
from .conftest import MakeHeaders

RECEIPTS = "SELECT tenant_id, payment_intent, amount_minor, reason, purchase, attempt FROM unapplied_receipt"


def recharge(payment_intent: str, *, tenant: str = "acme", attempt: str = "att_1") -> Credit:
    return Credit(tenant, payment_intent, Kind.RECHARGE, 100, 1000, "usd", attempt=attempt)


async def receipts(books: Books) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await books.rows(RECEIPTS)]


@pytest.mark.parametrize("is_one_batch", [True, False])
async def test_a_copy_of_a_purchase_is_a_receipt(books: Books, is_one_batch: bool) -> None:
    paid = [purchase("pi_1", order="pur_1"), purchase("pi_2", order="pur_1")]
    for batch in [paid] if is_one_batch else [[each] for each in paid]:
        await books.post(*batch)
    assert await books.balance() == (100, 0, 0)
    assert await receipts(books) == [("acme", "pi_2", 1000, "order_already_credited", "pur_1", None)]
    assert [each.kind for each in books.published.entries] == ["purchase", "unapplied_receipt"]
    await books.assert_right()


async def test_a_copy_of_an_attempt_is_a_receipt(books: Books) -> None:
    await books.post(recharge("pi_1"))
    [outcome] = await books.post(recharge("pi_2"))
    assert outcome == NothingPosted()
    assert await receipts(books) == [("acme", "pi_2", 1000, "order_already_credited", None, "att_1")]


async def test_orders_differ_by_kind_and_tenant(books: Books) -> None:
    orders = [
        purchase("pi_1", order="same"), recharge("pi_2", attempt="same"),
        purchase("pi_3", order="same", tenant="bravo"), recharge("pi_4", attempt="same", tenant="bravo"),
    ]  # fmt: skip
    outcomes = await books.post(*orders)
    assert all(isinstance(each, Posted) for each in outcomes)
    assert await receipts(books) == []


async def test_an_operators_credit_of_a_copy_survives_its_repeated_event(books: Books) -> None:
    copy = purchase("pi_2", order="pur_1")
    await books.post(purchase("pi_1", order="pur_1"), copy)
    await books.post(purchase("pi_2", 90, order="pur_1", by_operator=True))
    [outcome] = await books.post(copy)
    assert outcome == NothingPosted()
    assert await books.balance() == (190, 0, 0)
    [outcome] = await books.post(purchase("pi_2", 80, order="pur_1", by_operator=True))
    assert outcome == Conflict("pi_2"), "an operator who decides something else gets a conflict"
    await books.assert_right()


async def test_concurrent_copies_of_an_order_are_credited_once(books: Books) -> None:
    await asyncio.gather(*(books.post(purchase(f"pi_{n}", order="pur_1")) for n in range(8)))
    assert await books.balance() == (100, 0, 0)
    assert len(await receipts(books)) == 7
    await books.assert_right()


async def test_a_refund_of_the_copy_takes_nothing(books: Books) -> None:
    await books.post(purchase("pi_1", order="pur_1"), purchase("pi_2", order="pur_1"))
    await books.post(refund(payment_intent="pi_2"))
    assert await books.balance() == (100, 0, 0)


async def test_a_copy_credited_by_an_operator_leaves_the_order_with_the_first_payment(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase("pi_1", order="pur_1"), purchase("pi_2", order="pur_1"))
    answer = await api.post(
        "/api/ledger/unapplied-receipts/pi_2/credit",
        headers=headers(None, Scope.OPERATOR),
        json={"tenantId": "acme", "credits": 70},
    )
    assert answer.status_code == 200, answer.text
    assert await books.balance() == (170, 0, 0)
    rows = await books.rows("SELECT payment_intent, purchase FROM payment_intent ORDER BY payment_intent")
    assert [tuple(row) for row in rows] == [("pi_1", "pur_1"), ("pi_2", None)]
    rows = await books.rows("SELECT payment_intent, purchase FROM transfer ORDER BY version")
    assert [tuple(row) for row in rows] == [("pi_1", "pur_1"), ("pi_2", "pur_1")], "the entry names the purchase"
    await books.post(purchase("pi_2", 70, order="pur_1"))  # its event once more: nothing
    assert await books.balance() == (170, 0, 0)
    await books.assert_right()


async def test_the_same_payment_again_is_no_copy(books: Books) -> None:
    await books.post(purchase("pi_1", order="pur_1"))
    [outcome] = await books.post(purchase("pi_1", order="pur_1"))
    assert isinstance(outcome, Posted) and outcome.repeated
    assert await receipts(books) == []
