"""`python -m ledger check`: its exit code and report for right books, changed rows, and books that it cannot see."""

import subprocess
import sys

import pytest
from sqlalchemy import text

from embedded.environment import inherited
from ledger.commands.check import check, report
from shared.database import make_engine

from .books import Books
from .builders import purchase, refund, unapplied, usage, withdrawn

COMMAND_TIMEOUT_S = 60


async def fill(books: Books) -> None:
    await books.post(
        purchase("pi_1"), purchase("pi_2", tenant="bravo"), usage(credits=130), refund(amount_minor=500),
        withdrawn("dp_2", 300, payment_intent="pi_2"), refund("re_9", payment_intent="pi_9"), unapplied("pi_8"),
    )  # fmt: skip


def ledger_check(url: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ledger", "check"], env={**inherited(), "DATABASE_URL_WORKER": url, **environment},
        capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False,
    )  # fmt: skip


async def test_check_of_right_books_exits_with_0_and_reports_the_counts(books: Books) -> None:
    await fill(books)
    done = ledger_check(books.database.worker_url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compared 2 tenants, 5 transfers, 2 grants, 2 PaymentIntents" in done.stdout
    assert "open unapplied receipts: 1\n  pi_8: 1000 usd, signature_invalid" in done.stdout
    assert "waiting for their credit: 1 PaymentIntents" in done.stdout


async def test_check_of_empty_books_exits_with_2(books: Books) -> None:
    assert ledger_check(books.database.worker_url).returncode == 2


async def test_check_with_a_role_that_misses_rows_exits_with_2(books: Books) -> None:
    await fill(books)
    for url in (books.database.api_url, books.database.owner_url):
        done = ledger_check(url)
        assert (done.returncode, "does not see all rows of" in done.stdout) == (2, True), done.stdout


def test_check_without_a_setting_exits_with_2_and_names_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "check"], env=inherited(), capture_output=True, text=True,
        timeout=COMMAND_TIMEOUT_S, check=False, cwd="/",
    )  # fmt: skip
    assert (done.returncode, "DATABASE_URL_WORKER" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("damage", "whose"),
    [
        ("UPDATE balance SET balance = balance + 1 WHERE tenant_id = 'acme'", "tenant 'acme': the balance is"),
        ("UPDATE balance SET owed = owed + 1 WHERE tenant_id = 'bravo'", "tenant 'bravo': what is owed"),
        ("UPDATE balance SET receivable = 0 WHERE tenant_id = 'acme'", "tenant 'acme': the receivable"),
        ("UPDATE balance SET version = version + 1 WHERE tenant_id = 'acme'", "tenant 'acme': the version"),
        ("DELETE FROM balance WHERE tenant_id = 'acme'", "tenant 'acme': the balance is None"),
        ("UPDATE credit_grant SET remaining = 71 WHERE tenant_id = 'bravo'", "tenant 'bravo', grant 1: what remains"),
        ("UPDATE credit_grant SET credits = 1000", "grant 1: its size is 1000"),
        ("DELETE FROM credit_grant WHERE tenant_id = 'bravo'", "tenant 'bravo': the number of grants"),
        ("UPDATE transfer SET credits = credits + 1 WHERE kind = 'usage'", "tenant 'acme': the balance is"),
        ("DELETE FROM transfer WHERE kind = 'dispute'", "tenant 'bravo': the balance is"),
        ("UPDATE transfer SET created_at = '2020-01-01' WHERE kind = 'usage'", "go back in time"),
        ("UPDATE transfer SET balance_after = 0 WHERE kind = 'purchase'", "a wrong running balance"),
        ("UPDATE payment_intent SET refunds = '{}' WHERE payment_intent = 'pi_1'", "pi_1: 50 credits are reversed, 0"),
        ("UPDATE payment_intent SET reversed_credits = 1 WHERE tenant_id = 'bravo'", "pi_2: what is reversed is 1"),
        ("UPDATE payment_intent SET credits = 1 WHERE payment_intent = 'pi_1'", "pi_1: what it was credited with is 1"),
    ],
)
async def test_check_reports_a_row_that_was_changed_by_hand(books: Books, damage: str, whose: str) -> None:
    await fill(books)
    await books.assert_right()
    superuser = make_engine(books.database.superuser_url, application_name="ledger-test-damage", pool_size=1)
    try:
        async with superuser.begin() as connection:
            assert (await connection.execute(text(damage))).rowcount > 0
    finally:
        await superuser.dispose()
    findings = await check(books.engine)
    assert findings.exit_code == 1
    assert any(whose in sentence for sentence in findings.wrong), report(findings)
