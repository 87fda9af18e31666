"""Batches of debits over HTTP: each for itself, or all together."""

from typing import Any

import httpx
import pytest

from shared.auth import Scope

from .books import Books
from .builders import purchase
from .conftest import MakeHeaders


async def post(api: httpx.AsyncClient, headers: dict[str, str], debits: list[dict[str, Any]], mode: str) -> Any:
    return await api.post("/api/ledger/debits/batch", headers=headers, json={"debits": debits, "mode": mode})


def named(*credits: int, **more: Any) -> list[dict[str, Any]]:
    return [{"reference": f"job-{n}", "credits": each, **more} for n, each in enumerate(credits)]


async def test_each_debit_of_a_batch_has_its_own_result(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase(credits=100))
    response = await post(api, headers("acme", Scope.CREDITS_DEBIT), named(60, 50, 40), "each")
    assert (response.status_code, response.json()["refused"]) == (200, 1)
    first, second, third = response.json()["results"]
    assert (first["debit"]["available"], third["debit"]["available"]) == (40, 0)
    assert (second["problem"]["code"], second["problem"]["available"]) == ("insufficient_credits", 40)
    assert await books.balance() == (0, 0, 0)
    await books.assert_right()


async def test_a_batch_of_all_posts_every_debit_or_none(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase(credits=100), purchase("pi_2", 10, tenant="bravo"))
    own = headers("acme", Scope.CREDITS_DEBIT)
    refused = await post(api, own, named(60, 50), "all")
    assert (refused.status_code, refused.json()["code"]) == (409, "batch_refused")
    assert [result["problem"]["code"] for result in refused.json()["results"]] == ["withheld", "insufficient_credits"]
    assert (await books.balance())[0] == 100
    posted = await post(api, own, named(60, 40), "all")
    assert [result["debit"]["available"] for result in posted.json()["results"]] == [40, 0]
    again = await post(api, own, named(60, 40), "all")
    assert again.json() == posted.json()
    conflict = await post(api, own, named(60, 41), "all")
    known, clash = conflict.json()["results"]
    assert (known["debit"]["available"], clash["problem"]["code"]) == (40, "reference_conflict")
    assert conflict.status_code == 409
    assert await books.balance() == (0, 0, 0)


async def test_the_same_reference_twice_in_a_batch_is_one_debit(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase(credits=10))
    twice = [{"reference": "a", "credits": 6}] * 2
    for mode in ("all", "each"):
        response = await post(api, headers("acme", Scope.CREDITS_DEBIT), twice, mode)
        assert [result["debit"]["available"] for result in response.json()["results"]] == [4, 4]
    clash = [{"reference": "b", "credits": 1}, {"reference": "b", "credits": 2}]
    assert (await post(api, headers("acme", Scope.CREDITS_DEBIT), clash, "all")).status_code == 409
    assert (await books.balance())[0] == 4


async def test_a_product_names_a_tenant_for_each_debit_of_a_batch(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase(credits=10), purchase("pi_2", 10, tenant="bravo"))
    product = headers(None, Scope.CREDITS_DEBIT_ANY)
    debits = [{"reference": "a", "credits": 3, "tenantId": tenant} for tenant in ("acme", "bravo", "nobody")]
    response = await post(api, product, debits, "each")
    assert [result.get("problem", {}).get("code") for result in response.json()["results"]] == [
        None, None, "unknown_tenant",
    ]  # fmt: skip
    assert (await post(api, product, debits, "all")).status_code == 409
    assert (await post(api, product, named(1), "each")).status_code == 422
    foreign = named(1) + named(1, tenantId="bravo")
    assert (await post(api, headers("acme", Scope.CREDITS_DEBIT), foreign, "each")).status_code == 403
    assert await books.balance("bravo") == (7, 0, 0)


async def test_a_batch_has_at_most_a_thousand_debits(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase(credits=5_000))
    own = headers("acme", Scope.CREDITS_DEBIT)
    long = [{"reference": f"{n:04}" + "r" * 251, "credits": 1, "purpose": "p" * 100} for n in range(1_001)]
    assert (await post(api, own, long[:1_000], "all")).json()["refused"] == 0
    assert (await post(api, own, long, "each")).status_code == 422
    assert (await post(api, own, [], "each")).status_code == 422
    assert (await books.balance())[0] == 4_000
    await books.assert_right()


@pytest.mark.parametrize("mode", ["each", "all"])
async def test_an_invalid_debit_rejects_its_batch(api: httpx.AsyncClient, headers: MakeHeaders, mode: str) -> None:
    response = await post(
        api, headers("acme", Scope.CREDITS_DEBIT), [*named(1), {"reference": "x", "credits": 0}], mode
    )
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "debits.1.credits")
