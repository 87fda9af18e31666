"""Unapplied receipts, and how operators credit them."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from ledger.core.commands import NothingPosted, Posted
from ledger.jobs.archive import archive_old_transfers
from shared.auth import Scope
from shared.clock import utc_now
from shared.events import EntryPosted, decode

from .books import Books
from .builders import purchase, refund, unapplied, usage, withdrawn
from .conftest import MakeHeaders

OPEN = "SELECT payment_intent FROM unapplied_receipt WHERE resolved_at IS NULL ORDER BY payment_intent"
RESOLVED = "SELECT payment_intent, resolution FROM unapplied_receipt WHERE resolved_at IS NOT NULL"


class OperatorApi:
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
async def operator(api: httpx.AsyncClient, books: Books, headers: MakeHeaders) -> OperatorApi:
    await books.post(purchase("pi_0", 5), purchase("pi_other", 5, tenant="other"), unapplied("pi_1"))
    return OperatorApi(api, books, headers)


async def test_an_operator_credits_a_receipt_to_the_tenant_and_credits_of_choice(operator: OperatorApi) -> None:
    answer = await operator.credit(tenantId="other", expiresInDays=30)
    assert (answer.status_code, {**answer.json(), "postedAt": None}) == (
        200,
        {
            "tenantId": "other", "reference": "pi_1", "credits": 100, "available": 105, "balanceVersion": 2,
            "postedAt": None,
        },
    )  # fmt: skip
    assert await operator.books.rows(OPEN) == []
    assert [tuple(row) for row in await operator.books.rows(RESOLVED)] == [("pi_1", "credited")]
    [entry] = await operator.books.rows("SELECT * FROM transfer WHERE reference = 'pi_1'")
    assert (entry.door, entry.kind, entry.amount_minor, entry.currency) == ("stripe", "purchase", 1000, "usd")
    [grant] = await operator.books.rows(
        "SELECT expires_at - created_at AS life FROM credit_grant WHERE reference = 'pi_1'"
    )
    assert grant.life.days == 30
    await operator.books.assert_right()


async def test_crediting_a_receipt_publishes_its_attempt(operator: OperatorApi) -> None:
    await operator.books.post(unapplied("pi_2", attempt="att_1"))
    assert (await operator.credit("pi_2")).status_code == 200
    rows = await operator.books.rows("SELECT value FROM outbox ORDER BY id")
    receipt, credit = (entry for row in rows if (entry := decode(row.value, EntryPosted)) and entry.attempt == "att_1")
    assert (receipt.kind, receipt.credits) == ("unapplied_receipt", 0)
    assert (credit.kind, credit.credits, credit.payment_intent) == ("recharge", 100, "pi_2")


async def test_a_receipt_credited_to_another_tenant_hides_its_attempt(operator: OperatorApi) -> None:
    await operator.books.post(unapplied("pi_2", attempt="att_of_acme"))
    assert (await operator.credit("pi_2", tenantId="other")).status_code == 200
    [entry] = await operator.books.rows("SELECT tenant_id, kind, attempt FROM transfer WHERE reference = 'pi_2'")
    assert tuple(entry) == ("other", "recharge", None)
    await operator.books.assert_right()


async def test_crediting_a_receipt_again_answers_the_first_result_or_conflicts(operator: OperatorApi) -> None:
    first = await operator.credit()
    await operator.books.post(usage("job-1", 7))
    again = await operator.credit()
    assert (again.status_code, again.json()) == (200, first.json())
    assert await operator.refused(credits=99) == (409, "reference_conflict")
    assert await operator.refused(tenantId="other") == (409, "reference_conflict")
    await operator.books.assert_right()


async def test_waiting_and_later_reversals_of_a_receipt_are_applied(operator: OperatorApi) -> None:
    await operator.books.post(refund("re_1", 300, payment_intent="pi_1"))
    assert (await operator.credit()).json()["available"] == 105
    await operator.books.post(withdrawn(amount_minor=200))
    assert (await operator.entries())[1:4] == [
        ("acme", "purchase", 100),
        ("acme", "refund", 30),
        ("acme", "dispute", 20),
    ]
    await operator.books.assert_right()


async def test_a_refunded_receipt_leaves_no_credits_and_is_resolved(operator: OperatorApi) -> None:
    """So the service that initiated the payment knows, and has to act only if the refund fails."""
    await operator.books.post(refund("re_1", 1000, payment_intent="pi_1", status="pending"))
    assert (await operator.credit()).status_code == 200
    assert (await operator.books.balance(), await operator.books.rows(OPEN)) == ((5, 0, 0), [])
    await operator.books.post(refund("re_1", 1000, payment_intent="pi_1", status="failed"))
    assert await operator.books.balance() == (105, 0, 0)
    await operator.books.assert_right()


async def test_a_payment_without_receipt_cannot_be_credited(operator: OperatorApi) -> None:
    assert await operator.refused("pi_unknown") == (404, "unknown_receipt")
    assert await operator.refused("pi_0") == (404, "unknown_receipt")
    await operator.books.post(refund("re_9", payment_intent="pi_9"))
    assert await operator.refused("pi_9") == (404, "unknown_receipt")


async def test_a_receipt_of_no_money_cannot_be_credited(operator: OperatorApi) -> None:
    await operator.books.post(unapplied("pi_2", amount_minor=0))
    assert await operator.refused("pi_2") == (404, "unknown_receipt")


async def test_a_receipt_cannot_be_credited_to_an_unknown_tenant(operator: OperatorApi) -> None:
    assert await operator.refused(tenantId="amce") == (404, "unknown_tenant")
    assert await operator.books.rows("SELECT 1 FROM balance WHERE tenant_id = 'amce'") == []
    announced = await operator.api.put("/api/ledger/tenants/amce", headers=operator.headers, json={})
    assert announced.status_code == 200
    assert (await operator.credit(tenantId="amce")).status_code == 200


async def test_a_receipt_credited_by_its_event_and_by_an_operator_counts_once(operator: OperatorApi) -> None:
    await operator.books.post(unapplied("pi_2"), purchase("pi_2", 100))
    assert (await operator.credit("pi_2")).json()["available"] == 105
    assert await operator.refused("pi_2", credits=50) == (409, "reference_conflict")
    await operator.credit("pi_1", credits=60)
    assert await operator.books.post(purchase("pi_1", 100)) == [NothingPosted()], "an operator has decided"
    assert (await operator.books.balance())[0] == 165
    await operator.books.assert_right()


async def test_concurrent_operators_and_event_credit_a_receipt_once(operator: OperatorApi) -> None:
    await operator.books.post(*(unapplied(f"pi_race_{n}") for n in range(10)))

    async def event(n: int) -> int:
        [outcome] = await operator.books.post(purchase(f"pi_race_{n}", 100))
        return 200 if isinstance(outcome, Posted) else 409

    async def decision(n: int, credits: int) -> int:
        return (await operator.credit(f"pi_race_{n}", credits=credits)).status_code

    for n in range(10):
        answers = await asyncio.gather(decision(n, 70), event(n), decision(n, 70), decision(n, 30))
        assert set(answers) == {200, 409}
    credited = [entry for entry in await operator.entries() if entry[1] == "purchase" and entry[2] in {30, 70, 100}]
    assert len(credited) == 10
    assert [row.payment_intent for row in await operator.books.rows(OPEN)] == ["pi_1"]
    await operator.books.assert_right()


async def test_a_credit_whose_transfer_is_in_the_archive_is_not_made_again(operator: OperatorApi) -> None:
    """Its reference is forgotten after 400 days, but the PaymentIntent is not."""
    long_ago = utc_now() - timedelta(days=600)
    await operator.books.post(unapplied("pi_2", tenant="old"), purchase("pi_2", tenant="old"), now=long_ago)
    await archive_old_transfers(operator.books.engine)
    assert await operator.refused("pi_2", tenantId="old") == (404, "unknown_receipt")


@pytest.mark.parametrize(
    "changes",
    [
        {"credits": 0}, {"credits": 2**53}, {"credits": "100"}, {"expiresInDays": 0}, {"expiresInDays": 36_501},
        {"expiresInDays": True}, {"tenantId": ""}, {"tenantId": "with space"}, {"kind": "promotion"},
    ],
)  # fmt: skip
async def test_invalid_receipt_credits_are_rejected(operator: OperatorApi, changes: dict[str, Any]) -> None:
    assert await operator.refused(**changes) == (422, "invalid_request")


async def test_a_receipt_credit_beyond_the_range_is_refused(operator: OperatorApi) -> None:
    assert await operator.refused(credits=2**53 - 1) == (422, "balance_out_of_range")
    assert [row.payment_intent for row in await operator.books.rows(OPEN)] == ["pi_1"]
