"""`python -m ledger check`: compares balances, grants and PaymentIntents with the transfers, in one snapshot, while the
ledger keeps working.

Then asks Kafka which records the ledger has not handled: the books may be right and lack a payment that is in a stopped
partition or a dead letter.

Exit code 0: everything is right. 1: something is wrong, or records are held back; it says what. 2: nothing was
compared, the role does not see every row, or Kafka does not answer.
"""

from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from aiokafka.errors import KafkaError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ledger.core.receivables import Receivables
from ledger.core.reversals import credits_to_reverse
from ledger.repository import check_sql
from ledger.repository.batch import Statements
from ledger.repository.payment_intent_rows import payment_intent_of
from ledger.settings import CheckSettings
from shared.commands import run_to_end
from shared.database import open_engine
from shared.groups import Group

PAGE_TENANTS = 1_000
STATEMENT_TIMEOUT_S = 600
WRONG_SHOWN_MAX = 100
KAFKA_NOT_CONFIGURED = "KAFKA_BOOTSTRAP_SERVERS is not set"
KAFKA_UNAVAILABLE = "Kafka does not answer"


@dataclass(slots=True)
class Findings:
    """What was compared, and what is wrong, a sentence for each. `unseen`: tables that the role does not see in full.
    `kafka`: why Kafka was not asked, if it was not."""

    tenants: int = 0
    transfers: int = 0
    grants: int = 0
    payment_intents: int = 0
    waiting_payment_intents: int = 0
    open_receipts: Sequence[str] = ()
    refused_reversals: Sequence[str] = ()
    lost_twice: list[str] = field(default_factory=list[str])
    unseen: Sequence[str] = ()
    held_back: Sequence[str] = ()
    kafka: str | None = None
    wrong: list[str] = field(default_factory=list[str])

    @property
    def exit_code(self) -> int:
        """0: right; 1: wrong, or records are held back; 2: nothing was proven."""
        if self.wrong or self.held_back:
            return 1
        return 2 if self.unseen or not self.transfers or self.kafka == KAFKA_UNAVAILABLE else 0


async def check(engine: AsyncEngine) -> Findings:
    """Compares every balance, grant and PaymentIntent with the transfers. Reads one snapshot and locks nothing."""
    findings = Findings()
    async with _snapshot(engine) as reading:
        findings.unseen = [row["name"] for row in await reading(check_sql.TABLES_NOT_FULLY_VISIBLE)]
        if findings.unseen:
            return findings
        after = ""
        while True:
            bounds = await reading(check_sql.PAGE_END, after, PAGE_TENANTS)
            upto: str | None = bounds[0]["upto"]
            await _check_page(reading, findings, after, upto)
            if upto is None:
                break
            after = upto
        totals = (await reading(check_sql.TOTALS))[0]
        findings.waiting_payment_intents = totals["waiting"]
        findings.open_receipts = [
            f"{row['payment_intent']}: {row['amount_minor']} {row['currency']}, {row['reason']}"
            for row in await reading(check_sql.OPEN_RECEIPTS, WRONG_SHOWN_MAX)
        ]
        findings.refused_reversals = [
            f"{row['payment_intent']}: {row['reference']} of {row['amount_minor']} {row['currency']}, credited in "
            f"{row['credited']}"
            for row in await reading(check_sql.REFUSED_REVERSALS, WRONG_SHOWN_MAX)
        ]
    return findings


async def _check_page(reading: "Reading", findings: Findings, after: str, upto: str | None) -> None:
    """Tenants after `after` up to `upto`, or to the last one."""
    for row in await reading(check_sql.BALANCES, after, upto):
        findings.tenants += 1
        findings.transfers += row["transfers"]
        findings.wrong += _wrong(row, check_sql.BALANCE_RULES, f"tenant {row['tenant_id']!r}")
    receivables: defaultdict[str, Receivables] = defaultdict(Receivables)
    for row in await reading(check_sql.RECEIVABLES, after, upto):
        receivables[row["tenant_id"]].change(row["change"], row["grant_numbers"], row["grant_credits"])
    for row in await reading(check_sql.GRANTS, after, upto):
        findings.grants += 1
        number, of_tenant = row["grant_number"], receivables[row["tenant_id"]]
        name = f"tenant {row['tenant_id']!r}, grant {number}"
        expected = {
            "unpaid_expected": of_tenant.unpaid[number],
            "paid_by_others_expected": of_tenant.paid_by_others[number],
        }
        findings.wrong += _wrong({**row, **expected}, check_sql.GRANT_RULES, name)
        lost = min(row["lost_twice"] or 0, row["reversed"] or 0)  # an undone reversal has taken nothing
        if lost:
            findings.lost_twice.append(f"{name}: {lost} credits")
    for row in await reading(check_sql.PAYMENT_INTENTS, after, upto):
        findings.payment_intents += 1
        name = f"tenant {row['tenant_id']!r}, {row['payment_intent']}"
        findings.wrong += _wrong(row, check_sql.PAYMENT_INTENT_RULES, name)
        intent = payment_intent_of(row)
        assert intent.credit is not None, "the query asks for credited ones"
        due = credits_to_reverse(intent.credit, intent)
        if due != intent.credit.reversed_credits:
            findings.wrong.append(f"{name}: {intent.credit.reversed_credits} credits are reversed, {due} are due")


async def ask_kafka(findings: Findings, bootstrap_servers: str | None, topic_prefix: str) -> None:
    """Adds the records that the ledger's consumer group has not handled."""
    if bootstrap_servers is None:
        findings.kafka = KAFKA_NOT_CONFIGURED
        return
    try:
        findings.held_back = (await Group(bootstrap_servers, "ledger", topic_prefix).held_back()).lines()
    except (KafkaError, TimeoutError):
        findings.kafka = KAFKA_UNAVAILABLE


def _wrong(row: Any, rules: Sequence[tuple[str, str, str]], name: str) -> list[str]:
    """The rules (what, column, column it must equal) that the row breaks."""
    return [
        f"{name}: {what} is {row[actual]}, its transfers say {row[expected]}"
        for what, actual, expected in rules
        if row[actual] != row[expected]
    ]


class Reading:
    """Reads within the snapshot, each statement in bounded time."""

    def __init__(self, driver: Statements) -> None:
        self._driver = driver

    async def __call__(self, query: str, *values: Any) -> list[Any]:
        return await self._driver.fetch(query, *values, timeout=STATEMENT_TIMEOUT_S)


@asynccontextmanager
async def _snapshot(engine: AsyncEngine) -> AsyncGenerator[Reading]:
    async with engine.connect() as plain:
        connection: AsyncConnection = await plain.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        async with connection.begin():
            await connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'"))
            yield Reading(cast(Statements, (await connection.get_raw_connection()).driver_connection))


def report(findings: Findings) -> str:
    """What `check` prints."""
    if findings.unseen:
        return (
            f"This role does not see all rows of {', '.join(findings.unseen)}: nothing is proven. "
            "Run with DATABASE_URL_WORKER of the role ledger_worker."
        )
    lines = [
        f"compared {findings.tenants} tenants, {findings.transfers} transfers, {findings.grants} grants, "
        f"{findings.payment_intents} PaymentIntents",
        f"waiting for their credit: {findings.waiting_payment_intents} PaymentIntents with refunds or disputes",
        f"open unapplied receipts: {len(findings.open_receipts)}",
        *(f"  {receipt}" for receipt in findings.open_receipts),
        f"refused reversals: {len(findings.refused_reversals)}",
        *(f"  {reversal}" for reversal in findings.refused_reversals),
    ]
    if findings.lost_twice:
        lines.append("expired and taken back as well before migration 0005; give them back once, by adjustments:")
        lines += [f"  {sentence}" for sentence in findings.lost_twice]
    if findings.wrong:
        lines.append(f"WRONG: {len(findings.wrong)}")
        lines += [f"  {sentence}" for sentence in findings.wrong[:WRONG_SHOWN_MAX]]
    else:
        lines.append("every book is right" if findings.transfers else "there is nothing to compare")
    if findings.kafka is not None:
        lines.append(f"what is held back is unknown: {findings.kafka}")
    if findings.held_back:
        lines.append("HELD BACK: the books lack what is in these records, payments perhaps")
        lines += [f"  {sentence}" for sentence in findings.held_back]
    return "\n".join(lines)


def run(settings: CheckSettings) -> int:
    """Checks, prints the report and returns the exit code."""

    async def work() -> int:
        url = settings.database_url_worker.get_secret_value()
        async with open_engine(
            url, application_name="ledger-check", start_timeout_s=settings.start_timeout_s
        ) as engine:
            findings = await check(engine)
        await ask_kafka(findings, settings.kafka_bootstrap_servers, settings.topic_prefix)
        print(report(findings))  # noqa: T201  # a command's answer
        return findings.exit_code

    return run_to_end("ledger", settings.log_level, work)
