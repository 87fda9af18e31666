"""Promotions, adjustments, tenants that are announced, and overdraft limits."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from ledger.core.commands import Conflict, Insufficient, Posted, UnknownTenant
from shared.auth import Scope
from shared.clock import utc_now

from .books import Books
from .builders import adjustment, debit, promotion, purchase, usage
from .conftest import MakeHeaders
from .ledger_in_memory import LedgerInMemory


def test_promotions_are_spent_before_paid_credits() -> None:
    ledger = LedgerInMemory()
    ledger.run([purchase(credits=100)])
    ledger.run([promotion(credits=20), debit(credits=30)])
    assert {number: lot.remaining for number, lot in ledger.grants["acme"].items()} == {1: 90, 2: 0}


def test_operators_references_count_once_in_their_own_namespace() -> None:
    ledger = LedgerInMemory()
    ledger.run([purchase("pi_1", 100), debit("welcome", 1)])
    first, again = ledger.run([promotion("welcome", 20), promotion("welcome", 20)]).outcomes
    assert isinstance(first, Posted)
    assert isinstance(again, Posted)
    assert again.repeated
    assert ledger.run([promotion("welcome", 21), adjustment("welcome", 20)]).outcomes == [Conflict("welcome")] * 2
    assert ledger.balance() == 119


def test_a_debit_named_like_a_payment_intent_does_not_take_its_reference() -> None:
    ledger = LedgerInMemory()
    ledger.run([purchase("pi_1", 100)])
    ledger.run([debit("pi_2", 10), purchase("pi_2", 50)])
    assert ledger.balance() == 140


def test_adjustments_add_and_remove_credits_and_leave_debt() -> None:
    ledger = LedgerInMemory()
    ledger.run([purchase(credits=10)])
    ledger.run([adjustment("down", -25), adjustment("up", 5)])
    balance = ledger.balances["acme"]
    assert (balance.balance, balance.owed, balance.receivable) == (-10, 10, 0)


def test_operators_cannot_post_for_an_unknown_tenant() -> None:
    assert LedgerInMemory().run([promotion(), adjustment()]).outcomes == [UnknownTenant()] * 2


async def put_tenant(api: httpx.AsyncClient, headers: MakeHeaders, tenant: str, limit: int = 0) -> httpx.Response:
    return await api.put(
        f"/api/ledger/tenants/{tenant}", headers=headers(None, Scope.OPERATOR), json={"overdraftLimit": limit}
    )


async def test_an_announced_tenant_can_have_promotions_and_debits(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    operator = headers(None, Scope.OPERATOR)
    body = {"tenantId": "new", "reference": "welcome", "credits": 20, "reason": "welcome"}
    assert (await api.post("/api/ledger/promotions", headers=operator, json=body)).status_code == 404
    assert (await api.get("/api/ledger/tenants/new", headers=operator)).status_code == 404
    assert (await put_tenant(api, headers, "new", 5)).json() == {
        "tenantId": "new", "overdraftLimit": 5, "available": 0, "held": 0, "owed": 0, "receivable": 0, "version": 0,
    }  # fmt: skip
    given = await api.post("/api/ledger/promotions", headers=operator, json=body)
    assert (given.status_code, given.json()["available"]) == (200, 20)
    corrected = await api.post(
        "/api/ledger/adjustments",
        headers=operator,
        json={"tenantId": "new", "reference": "fix", "credits": -7, "reason": "a mistake"},
    )
    assert (corrected.json()["credits"], corrected.json()["available"]) == (-7, 13)
    await books.post(usage("job-9", 3, tenant="new"))
    assert (await put_tenant(api, headers, "new", 9)).json()["available"] == 10
    again = await api.put("/api/ledger/tenants/new", headers=operator, json={})
    assert again.json()["overdraftLimit"] == 9, "announcing once more leaves the limits"
    await books.assert_right()


async def test_an_announced_tenant_without_credits_has_a_zero_balance(
    api: httpx.AsyncClient, headers: MakeHeaders
) -> None:
    await put_tenant(api, headers, "new")
    own = headers("new", Scope.BILLING_READ, Scope.CREDITS_DEBIT)
    assert (await api.get("/api/ledger/balance", headers=own)).json()["available"] == 0
    refused = await api.post("/api/ledger/debits", headers=own, json={"reference": "a", "credits": 1})
    assert (refused.status_code, refused.json()["available"]) == (402, 0)


async def test_an_overdraft_ends_at_the_limit_and_must_be_requested(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase(credits=10))
    await put_tenant(api, headers, "acme", 5)
    own = headers("acme", Scope.CREDITS_DEBIT)

    async def debit_status(reference: str, credits: int, **more: Any) -> int:
        body = {"reference": reference, "credits": credits, **more}
        return (await api.post("/api/ledger/debits", headers=own, json=body)).status_code

    assert await debit_status("a", 11) == 402
    assert await debit_status("b", 16, overdraft="allow") == 402
    assert await debit_status("c", 15, overdraft="allow") == 200
    assert await debit_status("d", 1, overdraft="allow") == 402
    assert await books.balance() == (-5, 5, 0)


async def test_usage_beyond_the_limit_is_recorded_and_flagged(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase(credits=10))
    await put_tenant(api, headers, "acme", 5)
    await books.post(usage("within", 15), usage("beyond", 1))
    entries = (await api.get("/api/ledger/entries", headers=headers("acme", Scope.BILLING_READ))).json()["entries"]
    assert [(entry["reference"], entry["beyondLimit"]) for entry in entries[:2]] == [
        ("beyond", True), ("within", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("promotions", {"credits": 0}), ("promotions", {"credits": -1}), ("promotions", {"credits": 1.5}),
        ("promotions", {"tenantId": "with space"}), ("promotions", {"expiresAt": "2026-09-01T00:00:00"}),
        ("promotions", {"priority": -1}), ("adjustments", {"credits": 0}), ("adjustments", {"reason": ""}),
        ("promotions", {"expiresAt": 1788220800}), ("promotions", {"expiresAt": "0001-01-01T00:00:00Z"}),
        ("promotions", {"expiresAt": "9999-12-31T23:59:59.999999Z"}),
        ("adjustments", {"credits": 2**53}), ("adjustments", {"reference": "r" * 10_000}),
    ],
)  # fmt: skip
async def test_invalid_operations_are_rejected(
    api: httpx.AsyncClient, headers: MakeHeaders, path: str, body: dict[str, Any]
) -> None:
    whole = {"tenantId": "acme", "reference": "r", "credits": 1, "reason": "x"} | body
    response = await api.post(f"/api/ledger/{path}", headers=headers(None, Scope.OPERATOR), json=whole)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


async def test_operator_routes_require_the_operator_scope(api: httpx.AsyncClient, headers: MakeHeaders) -> None:
    everything_else = headers(
        "acme", Scope.BILLING_READ, Scope.BILLING_WRITE, Scope.CREDITS_DEBIT, Scope.CREDITS_DEBIT_ANY
    )
    for method, path in (
        ("PUT", "tenants/acme"), ("GET", "tenants/acme"), ("POST", "promotions"), ("POST", "adjustments"),
        ("GET", "unapplied-receipts"), ("POST", "unapplied-receipts/pi_1/credit"),
    ):  # fmt: skip
        response = await api.request(method, f"/api/ledger/{path}", headers=everything_else, json={})
        assert (response.status_code, response.json()["code"]) == (403, "scope_missing")


async def test_a_promotion_that_expires(books: Books) -> None:
    now = utc_now()
    await books.post(purchase(credits=10), now=now)
    await books.post(promotion(credits=20, expires_at=now + timedelta(days=1)), now=now)
    assert await books.post(debit(credits=15), now=now + timedelta(days=2)) == [Insufficient(10)]
    await books.assert_right()
