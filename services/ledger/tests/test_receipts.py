"""Receipts that nobody could believe, and what operators make of them."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from ledger.archive import archive_old_transfers
from ledger.core.commands import Noted, Posted
from shared.auth import Scope
from shared.clock import utc_now
from shared.events import EntryPosted, decode

from .books import Books
from .builders import purchase, refund, unapplied, usage, withdrawn
from .conftest import MakeHeaders

OPEN = "SELECT payment_intent FROM unapplied_receipt WHERE resolved_at IS NULL ORDER BY payment_intent"
RESOLVED = "SELECT payment_intent, resolution FROM unapplied_receipt WHERE resolved_at IS NOT NULL"


class Desk:
    """An operator, and one receipt of 10.00 USD that claims to be acme's: `pi_1`."""

    def __init__(self, api: httpx.AsyncClient, books: Books, headers: MakeHeaders) -> None:
        self.api = api
        self.books = books
        self.headers = headers(None, Scope.OPERATOR)

    async def credit(self, payment_intent: str = "pi_1", **changes: Any) -> httpx.Response:
        return await self.api.post(
            f"/api/ledger/unapplied-receipts/{payment_intent}/credit",
            headers=self.headers,
            json={"tenantId": "acme", "credits": 100, **changes},
        )

    async def refused(self, payment_intent: str = "pi_1", **changes: Any) -> tuple[int, str]:
        answer = await self.credit(payment_intent, **changes)
        return answer.status_code, answer.json()["code"]

    async def entries(self) -> list[tuple[str, str, int]]:
        rows = await self.books.rows("SELECT tenant_id, kind, credits FROM transfer ORDER BY tenant_id, version")
        return [tuple(row) for row in rows]


@pytest.fixture
async def desk(api: httpx.AsyncClient, books: Books, headers: MakeHeaders) -> Desk:
    await books.apply(purchase("pi_0", 5), purchase("pi_other", 5, tenant="other"), unapplied("pi_1"))
    return Desk(api, books, headers)


async def test_an_operator_decides_whose_money_it_is_and_what_it_buys(desk: Desk) -> None:
    answer = await desk.credit(tenantId="other", expiresInDays=30)
    assert (answer.status_code, {**answer.json(), "postedAt": None}) == (
        200,
        {
            "tenantId": "other", "reference": "pi_1", "credits": 100, "available": 105, "balanceVersion": 2,
            "postedAt": None,
        },
    )  # fmt: skip
    assert await desk.books.rows(OPEN) == []
    assert [tuple(row) for row in await desk.books.rows(RESOLVED)] == [("pi_1", "credited")]
    [entry] = await desk.books.rows("SELECT * FROM transfer WHERE reference = 'pi_1'")
    assert (entry.door, entry.kind, entry.amount_minor, entry.currency) == ("stripe", "purchase", 1000, "usd")
    [grant] = await desk.books.rows("SELECT expires_at - created_at AS life FROM credit_grant WHERE reference = 'pi_1'")
    assert grant.life.days == 30
    await desk.books.assert_right()


async def test_the_attempt_that_the_receipt_names_is_told(desk: Desk) -> None:
    await desk.books.apply(unapplied("pi_2", attempt="att_1"))
    assert (await desk.credit("pi_2")).status_code == 200
    rows = await desk.books.rows("SELECT value FROM outbox ORDER BY id")
    receipt, credit = (entry for row in rows if (entry := decode(row.value, EntryPosted)) and entry.attempt == "att_1")
    assert (receipt.kind, receipt.credits) == ("unapplied_receipt", 0)
    assert (credit.kind, credit.credits, credit.payment_intent) == ("recharge", 100, "pi_2")


async def test_another_tenant_than_the_claimed_one_does_not_get_to_see_its_attempt(desk: Desk) -> None:
    await desk.books.apply(unapplied("pi_2", attempt="att_of_acme"))
    assert (await desk.credit("pi_2", tenantId="other")).status_code == 200
    [entry] = await desk.books.rows("SELECT tenant_id, kind, attempt FROM transfer WHERE reference = 'pi_2'")
    assert tuple(entry) == ("other", "recharge", None)
    await desk.books.assert_right()


async def test_the_same_again_answers_the_first_result_and_another_input_is_a_conflict(desk: Desk) -> None:
    first = await desk.credit()
    await desk.books.apply(usage("job-1", 7))
    again = await desk.credit()
    assert (again.status_code, again.json()) == (200, first.json())
    assert await desk.refused(credits=99) == (409, "reference_conflict")
    assert await desk.refused(tenantId="other") == (409, "reference_conflict")
    await desk.books.assert_right()


async def test_refunds_and_disputes_that_waited_are_applied_and_later_ones_reverse_it(desk: Desk) -> None:
    await desk.books.apply(refund("re_1", 300, payment_intent="pi_1"))
    assert (await desk.credit()).json()["available"] == 105
    await desk.books.apply(withdrawn(amount_minor=200))
    assert (await desk.entries())[1:4] == [("acme", "purchase", 100), ("acme", "refund", 30), ("acme", "dispute", 20)]
    await desk.books.assert_right()


async def test_money_that_went_back_leaves_no_credits_and_no_open_receipt(desk: Desk) -> None:
    """So whoever asked for it is told, and comes back to it only if the refund fails."""
    await desk.books.apply(refund("re_1", 1000, payment_intent="pi_1", status="pending"))
    assert (await desk.credit()).status_code == 200
    assert (await desk.books.balance(), await desk.books.rows(OPEN)) == ((5, 0, 0), [])
    await desk.books.apply(refund("re_1", 1000, payment_intent="pi_1", status="failed"))
    assert await desk.books.balance() == (105, 0, 0)
    await desk.books.assert_right()


async def test_without_a_receipt_there_is_nothing_to_credit(desk: Desk) -> None:
    assert await desk.refused("pi_unknown") == (404, "unknown_receipt")
    assert await desk.refused("pi_0") == (404, "unknown_receipt")
    await desk.books.apply(refund("re_9", payment_intent="pi_9"))
    assert await desk.refused("pi_9") == (404, "unknown_receipt")


async def test_a_receipt_of_no_money_buys_nothing(desk: Desk) -> None:
    await desk.books.apply(unapplied("pi_2", amount_minor=0))
    assert await desk.refused("pi_2") == (404, "unknown_receipt")


async def test_a_typing_error_opens_no_balance(desk: Desk) -> None:
    assert await desk.refused(tenantId="amce") == (404, "unknown_tenant")
    assert await desk.books.rows("SELECT 1 FROM balance WHERE tenant_id = 'amce'") == []
    announced = await desk.api.put("/api/ledger/tenants/amce", headers=desk.headers, json={})
    assert announced.status_code == 200
    assert (await desk.credit(tenantId="amce")).status_code == 200


async def test_its_own_event_may_still_be_believed_and_counts_the_same_once(desk: Desk) -> None:
    await desk.books.apply(unapplied("pi_2"), purchase("pi_2", 100))
    assert (await desk.credit("pi_2")).json()["available"] == 105
    assert await desk.refused("pi_2", credits=50) == (409, "reference_conflict")
    await desk.credit("pi_1", credits=60)
    assert await desk.books.apply(purchase("pi_1", 100)) == [Noted()], "an operator has decided"
    assert (await desk.books.balance())[0] == 165
    await desk.books.assert_right()


async def test_operators_and_the_event_in_a_race_credit_once(desk: Desk) -> None:
    await desk.books.apply(*(unapplied(f"pi_race_{n}") for n in range(10)))

    async def event(n: int) -> int:
        [outcome] = await desk.books.apply(purchase(f"pi_race_{n}", 100))
        return 200 if isinstance(outcome, Posted) else 409

    async def operator(n: int, credits: int) -> int:
        return (await desk.credit(f"pi_race_{n}", credits=credits)).status_code

    for n in range(10):
        answers = await asyncio.gather(operator(n, 70), event(n), operator(n, 70), operator(n, 30))
        assert set(answers) == {200, 409}
    credited = [entry for entry in await desk.entries() if entry[1] == "purchase" and entry[2] in {30, 70, 100}]
    assert len(credited) == 10
    assert [row.payment_intent for row in await desk.books.rows(OPEN)] == ["pi_1"]
    await desk.books.assert_right()


async def test_a_credit_whose_transfer_is_in_the_archive_is_not_made_again(desk: Desk) -> None:
    """Its reference is forgotten after 400 days, but the PaymentIntent is not."""
    long_ago = utc_now() - timedelta(days=600)
    await desk.books.apply(unapplied("pi_2", tenant="old"), purchase("pi_2", tenant="old"), now=long_ago)
    await archive_old_transfers(desk.books.engine)
    assert await desk.refused("pi_2", tenantId="old") == (404, "unknown_receipt")


@pytest.mark.parametrize(
    "changes",
    [
        {"credits": 0}, {"credits": 2**53}, {"credits": "100"}, {"expiresInDays": 0}, {"expiresInDays": 36_501},
        {"expiresInDays": True}, {"tenantId": ""}, {"tenantId": "with space"}, {"kind": "promotion"},
    ],
)  # fmt: skip
async def test_credits_that_make_no_sense(desk: Desk, changes: dict[str, Any]) -> None:
    assert await desk.refused(**changes) == (422, "invalid_request")


async def test_a_credit_beyond_what_a_balance_holds(desk: Desk) -> None:
    assert await desk.refused(credits=2**53 - 1) == (422, "balance_out_of_range")
    assert [row.payment_intent for row in await desk.books.rows(OPEN)] == ["pi_1"]
