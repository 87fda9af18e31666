"""The HTTP API: authorisation, responses, and that each request of a group has its own answer."""

import asyncio
from typing import Any

import httpx
import pytest

from ledger.core.accounts import CREDITS_MAX
from shared.auth import Scope

from .books import Books
from .builders import debit, purchase, unapplied, usage
from .conftest import MakeHeaders


async def post_debit(api: httpx.AsyncClient, headers: dict[str, str], **body: Any) -> httpx.Response:
    return await api.post("/api/ledger/debits", headers=headers, json={"reference": "job-1", "credits": 10} | body)


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json", response.text
    assert response.json()["detail"]
    return response.status_code, response.json()["code"]


async def test_get_balance_now_and_in_the_past(api: httpx.AsyncClient, books: Books, headers: MakeHeaders) -> None:
    await books.post(purchase(credits=100), usage(credits=130, purpose="summaries"))
    response = await api.get("/api/ledger/balance", headers=headers("acme", Scope.BILLING_READ))
    assert response.status_code == 200
    assert response.json() | {"changedAt": ""} == {
        "tenantId": "acme", "version": 2, "available": -30, "held": 0, "owed": 30, "receivable": 0,
        "usageDay": "2026-09-01", "usageByPurpose": {"summaries": 130}, "usageOfOtherPurposes": 0, "changedAt": "",
    }  # fmt: skip


async def test_a_tenant_that_never_had_credits_is_unknown(api: httpx.AsyncClient, headers: MakeHeaders) -> None:
    both = headers("nobody", Scope.BILLING_READ, Scope.CREDITS_DEBIT)
    assert problem(await api.get("/api/ledger/balance", headers=both)) == (404, "unknown_tenant")
    assert problem(await post_debit(api, both)) == (404, "unknown_tenant")


async def test_entries_are_paged(api: httpx.AsyncClient, books: Books, headers: MakeHeaders) -> None:
    await books.post(purchase(), *(debit(f"job-{n}", 1) for n in range(9)))
    await books.post(purchase("pi_2", tenant="other"))
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        response = await api.get(
            "/api/ledger/entries", params={"limit": 4, **cursor}, headers=headers("acme", Scope.BILLING_READ)
        )
        assert response.status_code == 200, response.text
        found += response.json()["entries"]
        if response.json()["nextCursor"] is None:
            break
        cursor = {"cursor": response.json()["nextCursor"]}
    assert [entry["version"] for entry in found] == list(range(10, 0, -1))
    assert (found[0]["credits"], found[0]["balanceAfter"], found[0]["kind"]) == (-1, 91, "usage")
    assert (found[-1]["credits"], found[-1]["paymentIntent"], found[-1]["amountMinor"]) == (100, "pi_1", 1000)


@pytest.mark.parametrize("params", [{"limit": "0"}, {"limit": "201"}, {"cursor": "?"}, {"cursor": "MTphYmM"}])
async def test_invalid_cursors_are_rejected(
    api: httpx.AsyncClient, headers: MakeHeaders, params: dict[str, str]
) -> None:
    response = await api.get("/api/ledger/entries", params=params, headers=headers("acme", Scope.BILLING_READ))
    assert problem(response)[0] == 422


async def test_a_repeated_debit_answers_the_first_result(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase(credits=100))
    own = headers("acme", Scope.CREDITS_DEBIT)
    first = await post_debit(api, own, purpose="summaries")
    assert first.status_code == 200
    assert first.json() | {"postedAt": ""} == {
        "tenantId": "acme", "reference": "job-1", "credits": 10, "available": 90, "balanceVersion": 2, "postedAt": "",
    }  # fmt: skip
    await books.post(debit("job-2", 50))
    assert (await post_debit(api, own)).json() == first.json()
    assert problem(await post_debit(api, own, credits=11)) == (409, "reference_conflict")
    assert (await books.balance())[0] == 40


async def test_a_debit_over_the_balance_reports_what_is_available(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase(credits=9))
    response = await post_debit(api, headers("acme", Scope.CREDITS_DEBIT))
    assert problem(response) == (402, "insufficient_credits")
    assert response.json()["available"] == 9


@pytest.mark.parametrize(
    "body",
    [
        {"credits": 0}, {"credits": -1}, {"credits": 1.5}, {"credits": 1.0}, {"credits": "1"}, {"credits": True},
        {"credits": CREDITS_MAX + 1}, {"credits": None}, {"reference": ""}, {"reference": "r" * 256},
        {"reference": "r" * 10_000}, {"reference": "nul\x00"}, {"reference": "line\nbreak"}, {"reference": 7},
        {"purpose": "p" * 101}, {"unknown": 1}, {"tenantId": ""},
    ],
)  # fmt: skip
async def test_invalid_debits_are_rejected(api: httpx.AsyncClient, headers: MakeHeaders, body: dict[str, Any]) -> None:
    response = await post_debit(api, headers("acme", Scope.CREDITS_DEBIT), **body)
    assert problem(response) == (422, "invalid_request")


async def test_a_product_debits_the_tenant_that_it_names(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase(tenant="acme"), purchase("pi_2", tenant="bravo"))
    product = headers(None, Scope.CREDITS_DEBIT_ANY)
    assert (await post_debit(api, product, tenantId="bravo")).json()["tenantId"] == "bravo"
    assert problem(await post_debit(api, product)) == (422, "tenant_missing")
    assert problem(await api.get("/api/ledger/balance", headers=product)) == (403, "scope_missing")


async def test_a_tenants_token_cannot_debit_another_tenant(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase(tenant="acme"), purchase("pi_2", tenant="bravo"))
    own = headers("acme", Scope.CREDITS_DEBIT)
    assert problem(await post_debit(api, own, tenantId="bravo")) == (403, "foreign_tenant")
    assert (await post_debit(api, own, tenantId="acme")).status_code == 200
    assert problem(await post_debit(api, headers("acme", Scope.BILLING_READ))) == (403, "scope_missing")
    assert problem(await post_debit(api, headers(None, Scope.CREDITS_DEBIT))) == (403, "tenant_required")
    both = headers("acme", Scope.CREDITS_DEBIT_ANY, Scope.CREDITS_DEBIT)
    assert problem(await post_debit(api, both, tenantId="bravo")) == (403, "foreign_tenant")
    assert problem(await post_debit(api, {})) == (401, "unauthorized")
    assert await books.rows("SELECT 1 FROM balance WHERE tenant_id = 'bravo' AND balance <> 100") == []


async def test_a_tenant_reads_only_its_own_data(api: httpx.AsyncClient, books: Books, headers: MakeHeaders) -> None:
    await books.post(purchase(tenant="acme"), purchase("pi_2", tenant="bravo"))
    for tenant in ("acme", "bravo"):
        own = headers(tenant, Scope.BILLING_READ)
        assert (await api.get("/api/ledger/balance", headers=own)).json()["tenantId"] == tenant
        entries = (await api.get("/api/ledger/entries", headers=own)).json()["entries"]
        assert [entry["paymentIntent"] for entry in entries] == [{"acme": "pi_1", "bravo": "pi_2"}[tenant]]


async def test_each_request_of_a_group_gets_its_own_answer(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(*(purchase(f"pi_{n}", 10, tenant=f"tenant-{n}") for n in range(10)))
    product = headers(None, Scope.CREDITS_DEBIT_ANY)
    answers = await asyncio.gather(
        *(post_debit(api, product, tenantId=f"tenant-{n}", credits=n + 3) for n in range(10)),
        post_debit(api, product, tenantId="nobody"),
        post_debit(api, headers("tenant-0", Scope.CREDITS_DEBIT), tenantId="tenant-1", reference="mine"),
        post_debit(api, headers("tenant-0", Scope.CREDITS_DEBIT), reference="job-1", credits=4),
    )
    assert [answer.status_code for answer in answers] == [200] * 8 + [402] * 2 + [404, 403, 409]
    await books.assert_right()


async def test_concurrent_debits_share_transactions_and_never_overdraw(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase(credits=50))
    own = headers("acme", Scope.CREDITS_DEBIT)
    answers = await asyncio.gather(*(post_debit(api, own, reference=f"job-{n}", credits=1) for n in range(120)))
    assert sorted(answer.status_code for answer in answers) == [200] * 50 + [402] * 70
    assert await books.balance() == (0, 0, 0)
    [row] = await books.rows("SELECT count(DISTINCT xmin::text) AS n FROM transfer WHERE kind = 'usage'")
    assert row.n < 25


async def test_unapplied_receipts_are_for_operators(api: httpx.AsyncClient, books: Books, headers: MakeHeaders) -> None:
    await books.post(*(unapplied(f"pi_{n}", tenant="acme" if n else "") for n in range(5)))
    assert problem(await api.get("/api/ledger/unapplied-receipts", headers=headers("acme", Scope.BILLING_READ))) == (
        403,
        "scope_missing",
    )
    operator = headers(None, Scope.OPERATOR)
    first = (await api.get("/api/ledger/unapplied-receipts", params={"limit": 3}, headers=operator)).json()
    second = (
        await api.get(
            "/api/ledger/unapplied-receipts", params={"limit": 3, "cursor": first["nextCursor"]}, headers=operator
        )
    ).json()
    found = first["unappliedReceipts"] + second["unappliedReceipts"]
    assert [each["paymentIntent"] for each in found] == [f"pi_{n}" for n in range(5)]
    assert second["nextCursor"] is None
    assert (found[0]["claimedTenantId"], found[1]["claimedTenantId"]) == (None, "acme")
    assert (found[0]["amountMinor"], found[0]["reason"]) == (1000, "signature_invalid")


async def test_every_status_is_documented(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    answers = set(document["paths"]["/api/ledger/debits"]["post"]["responses"])
    assert answers == {"200", "401", "402", "403", "404", "409", "413", "422", "500", "503"}


@pytest.mark.parametrize(
    "time",
    ["1788220800", "2026-09-01", "2026-09-01T12:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
)
async def test_times_without_zone_or_out_of_range_are_rejected(
    api: httpx.AsyncClient, headers: MakeHeaders, time: str
) -> None:
    for path, name in (("balance", "at"), ("entries", "from"), ("entries", "to")):
        response = await api.get(
            f"/api/ledger/{path}", params={name: time}, headers=headers("acme", Scope.BILLING_READ)
        )
        assert problem(response) == (422, "invalid_request")
