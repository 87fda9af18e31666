"""Statements: every entry of the month is in it, and the sums add up."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import httpx
import pytest

from ledger.core.commands import Command
from ledger.core.statement import PURPOSES_OF_DAY_MAX, DayUsage, Month, NotAMonth, Standing, build_statement
from ledger.jobs.archive import archive_old_transfers
from shared.auth import Scope
from shared.clock import utc_now

from .books import Books
from .builders import (
    adjustment,
    capture,
    debit,
    hold,
    promotion,
    purchase,
    refund,
    reinstated,
    release,
    usage,
    withdrawn,
)
from .conftest import MakeHeaders

MONTHS = ("2026-07", "2026-08", "2026-09")


async def statement(api: httpx.AsyncClient, headers: MakeHeaders, month: str) -> dict[str, Any]:
    response = await api.get(f"/api/ledger/statements/{month}", headers=headers("acme", Scope.BILLING_READ))
    assert response.status_code == 200, response.text
    return response.json()


def assert_sums_add_up(month: dict[str, Any]) -> None:
    opening, closing = month["opening"], month["closing"]
    assert opening["balance"] + sum(total["credits"] for total in month["totals"]) == closing["balance"]
    for line in month["grants"]:
        parts = ("opening", "granted", "used", "expired", "reversed", "adjusted", "paidDebt")
        assert sum(line[part] for part in parts) == line["closing"], line
    assert sum(line["opening"] for line in month["grants"]) - opening["owed"] == opening["balance"]
    assert sum(line["closing"] for line in month["grants"]) - closing["owed"] == closing["balance"]
    used = sum(total["credits"] for total in month["totals"] if total["kind"] in {"usage", "capture"})
    assert sum(each["credits"] for each in month["usage"]) == -used


async def test_a_statement_has_every_kind_of_entry(api: httpx.AsyncClient, books: Books, headers: MakeHeaders) -> None:
    def on(day: int) -> datetime:
        return datetime(2026, 8, day, 12, tzinfo=UTC)

    await books.post(purchase("pi_1", 100, amount_minor=1_000), now=datetime(2026, 7, 31, 23, 59, tzinfo=UTC))
    await books.post(debit("d1", 10, purpose="summaries"), promotion(credits=20, expires_at=on(20)), now=on(1))
    await books.post(hold("h1", 40, expires_at=on(28)), hold("h2", 5, expires_at=on(28)), now=on(2))
    await books.post(capture("h1", 15), release("h2"), debit("d2", 3, purpose="images"), now=on(3))
    await books.post(refund(amount_minor=500), now=on(4))
    await books.post(usage("u1", 60), adjustment("fix", -4), now=on(21))
    await books.post(purchase("pi_2", 50, amount_minor=700), now=on(30))
    await books.post(debit("september", 1), now=datetime(2026, 9, 1, tzinfo=UTC))

    month = await statement(api, headers, "2026-08")
    assert_sums_add_up(month)
    assert (month["opening"]["balance"], month["closing"]["version"]) == (100, 14)
    totals = {total["kind"]: (total["entries"], total["credits"]) for total in month["totals"]}
    assert totals["usage"] == (3, -73)
    assert totals["capture"] == (1, -15)
    assert totals["hold"] == (2, 0)
    assert totals["purchase"] == (1, 50)
    assert [(each["day"], each["purpose"], each["credits"]) for each in month["usage"][:3]] == [
        ("2026-08-01", "summaries", 10), ("2026-08-03", "summaries", 15), ("2026-08-03", "images", 3),
    ]  # fmt: skip
    paid = {total["kind"]: (total["currency"], total["amountMinor"]) for total in month["totals"]}
    assert paid["purchase"] == ("usd", 700)
    for name in MONTHS:
        assert_sums_add_up(await statement(api, headers, name))


def _facts(random: Random, step: int) -> list[Command]:
    """A few of all kinds of commands."""
    name, n = f"{step}", random.randint(1, 60)
    kinds: list[Sequence[Command]] = [
        [purchase(f"pi_{step % 7}", 70, amount_minor=999, expires_in_days=20)],
        [
            refund(
                f"re_{step % 7}_{step % 5}",
                333,
                payment_intent=f"pi_{step % 7}",
                status=random.choice(["succeeded", "failed"]),
            )
        ],
        [withdrawn(f"dp_{step % 7}_{step % 3}", 500, payment_intent=f"pi_{step % 7}")],
        [reinstated(f"dp_{step % 7}_{step % 3}", 500, payment_intent=f"pi_{step % 7}")],
        [usage(f"u{name}", n)],
        [debit(f"d{name}", n)],
        [promotion(f"p{name}", n)],
        [adjustment(f"a{name}", random.choice([n, -n]))],
        [hold(f"h{name}", n, expires_at=datetime(2026, 7, 1, tzinfo=UTC) + timedelta(days=step))],
        [capture(f"h{random.randint(0, step)}", n)],
        [release(f"h{random.randint(0, step)}")],
    ]
    return [command for few in random.choices(kinds, k=3) for command in few]


@pytest.mark.parametrize("seed", range(6))
async def test_statements_of_any_months_add_up_and_connect(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders, seed: int
) -> None:
    random = Random(seed)
    await books.post(purchase("pi_first", 200), now=datetime(2026, 7, 1, tzinfo=UTC))
    for step in range(60):
        now = datetime(2026, 7, 1, tzinfo=UTC) + timedelta(days=1.4 * step)
        await books.post(*_facts(random, step), now=now)
    await books.assert_right()
    months = [await statement(api, headers, name) for name in MONTHS]
    for month in months:
        assert_sums_add_up(month)
    for before, after in pairwise(months):
        assert before["closing"] == after["opening"]


async def test_a_statement_of_an_archived_month(api: httpx.AsyncClient, books: Books, headers: MakeHeaders) -> None:
    then = utc_now() - timedelta(days=500)
    await books.post(purchase(credits=100), debit(credits=30), now=then)
    name = f"{then:%Y-%m}"
    before = await statement(api, headers, name)
    assert await archive_old_transfers(books.engine) == 2
    assert await statement(api, headers, name) == before
    assert_sums_add_up(before)


async def test_a_statement_as_csv_and_html(api: httpx.AsyncClient, books: Books, headers: MakeHeaders) -> None:
    now = datetime(2026, 8, 1, tzinfo=UTC)
    await books.post(purchase(credits=100), debit("d1", 10, purpose="=1+1"), now=now)
    await books.post(debit("d2", 20, purpose="<script>alert(1)</script>"), now=now)
    own = headers("acme", Scope.BILLING_READ)
    table = await api.get("/api/ledger/statements/2026-08", params={"format": "csv"}, headers=own)
    assert table.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["credits"] for row in rows if row["section"] == "balance"] == ["0", "70"]
    assert sum(int(row["credits"]) for row in rows if row["section"] == "kind") == 70
    assert {row["detail"] for row in rows if row["section"] == "usage"} == {"'=1+1", "<script>alert(1)</script>"}
    page = await api.get("/api/ledger/statements/2026-08", params={"format": "html"}, headers=own)
    assert page.headers["content-type"].startswith("text/html")
    assert "<script>" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "Closing balance" in page.text


async def test_a_tenant_reads_only_its_own_statements(
    api: httpx.AsyncClient, books: Books, headers: MakeHeaders
) -> None:
    await books.post(purchase("pi_2", 100, tenant="bravo"), now=datetime(2026, 8, 1, tzinfo=UTC))
    month = await statement(api, headers, "2026-08")
    assert (month["tenantId"], month["totals"], month["grants"]) == ("acme", [], [])


@pytest.mark.parametrize("month", ["2026-13", "2026-8", "august", "0000-00", "2026-00", "999-01"])
async def test_invalid_months_are_rejected(api: httpx.AsyncClient, headers: MakeHeaders, month: str) -> None:
    response = await api.get(f"/api/ledger/statements/{month}", headers=headers("acme", Scope.BILLING_READ))
    assert (response.status_code, response.json()["code"]) == (422, "invalid_month")


def test_the_month_after_december_is_january() -> None:
    assert Month.parse("2026-12").end == datetime(2027, 1, 1, tzinfo=UTC)
    with pytest.raises(NotAMonth):
        Month.parse("9999-12")


def test_purposes_beyond_the_limit_of_a_day_are_summed() -> None:
    day = datetime(2026, 8, 1, tzinfo=UTC).date()
    usage_of_day = [DayUsage(day, f"purpose-{n}", n) for n in range(1, PURPOSES_OF_DAY_MAX + 11)]
    made = build_statement(
        "acme", Month.parse("2026-08"), opening=Standing(), closing=Standing(), totals=[], grants=[],
        moves_of_month=[], moves_since=[], usage=usage_of_day,
    )  # fmt: skip
    assert len(made.usage) == PURPOSES_OF_DAY_MAX + 1
    assert sum(each.credits for each in made.usage) == sum(each.credits for each in usage_of_day)
