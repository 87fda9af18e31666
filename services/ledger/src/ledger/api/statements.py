"""`GET /statements/{month}`: a tenant's month as JSON, CSV or a page to print."""

import csv
import io
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from ledger.api.body import Body
from ledger.api.dependencies import AppDependencies, Reader
from ledger.core.statement import Month, NotAMonth, Statement
from ledger.repository.statements import read_statement
from shared.problems import Problem, problem_responses

router = APIRouter()

_pages = Environment(loader=PackageLoader("ledger", "api"), autoescape=True, undefined=StrictUndefined)


_MONTH = {"pattern": "^[1-8][0-9]{3}-(0[1-9]|1[0-2])$", "example": "2026-09"}


class StandingBody(Body):
    version: int
    balance: int
    held: int
    owed: int
    receivable: int


class KindTotalBody(Body):
    kind: str
    entries: int
    credits: int
    currency: str | None
    amount_minor: int | None


class GrantLineBody(Body):
    grant_number: int
    kind: str
    reference: str
    created_at: datetime
    expires_at: datetime | None
    opening: int
    granted: int
    used: int
    expired: int
    reversed: int
    adjusted: int
    paid_debt: int
    closing: int


class DayUsageBody(Body):
    day: date
    purpose: str
    credits: int


class StatementBody(Body):
    tenant_id: str
    month: str
    opening: StandingBody
    closing: StandingBody
    totals: list[KindTotalBody]
    grants: list[GrantLineBody]
    usage: list[DayUsageBody]


class Format(StrEnum):
    JSON = "json"
    CSV = "csv"
    HTML = "html"


@router.get(
    "/statements/{month}",
    response_model=StatementBody,
    responses={200: {"content": {"text/csv": {}, "text/html": {}}}, **problem_responses(401, 403, 422, 500, 503)},
)
async def get_statement(
    dependencies: AppDependencies,
    principal: Reader,
    month: Annotated[str, Path(description="A calendar month (UTC).", max_length=7, json_schema_extra=_MONTH)],
    as_: Annotated[Format, Query(alias="format")] = Format.JSON,
) -> StatementBody | Response:
    """The tenant's month: opening balance, what came and went by kind, what became of each grant, usage by day and
    purpose, closing balance. The sums add up."""
    try:
        asked = Month.parse(month)
    except NotAMonth as error:
        raise Problem(422, "invalid_month", "Ask for a month as 2026-09.") from error
    statement = await read_statement(dependencies.api_engine, principal.own_tenant, asked)
    match as_:
        case Format.JSON:
            return body_of(statement)
        case Format.CSV:
            headers = {"Content-Disposition": f'attachment; filename="statement-{asked}.csv"'}
            return Response(csv_of(statement), media_type="text/csv", headers=headers)
        case Format.HTML:
            return Response(html_of(statement), media_type="text/html")


def body_of(statement: Statement) -> StatementBody:
    """As JSON."""
    return StatementBody(
        tenant_id=statement.tenant,
        month=str(statement.month),
        opening=StandingBody.model_validate(statement.opening, from_attributes=True),
        closing=StandingBody.model_validate(statement.closing, from_attributes=True),
        totals=[KindTotalBody.model_validate(total, from_attributes=True) for total in statement.totals],
        grants=[GrantLineBody.model_validate(line, from_attributes=True) for line in statement.grants],
        usage=[DayUsageBody.model_validate(each, from_attributes=True) for each in statement.usage],
    )


_GRANT_COLUMNS = ("opening", "granted", "used", "expired", "reversed", "adjusted", "paid_debt", "closing")


def csv_of(statement: Statement) -> str:
    """One table; `section` says what a row is: balance, kind, grant or usage."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["section", "name", "detail", "credits", "currency", "amount_minor", *_GRANT_COLUMNS])
    rows.writerow(["balance", "opening", f"{statement.month.begin:%Y-%m-%d}", statement.opening.balance])
    for total in statement.totals:
        rows.writerow(
            ["kind", total.kind, f"{total.entries} entries", total.credits, total.currency, total.amount_minor]
        )
    for line in statement.grants:
        columns = [getattr(line, name) for name in _GRANT_COLUMNS]
        rows.writerow(["grant", line.grant_number, _cell(f"{line.kind} {line.reference}"), "", "", "", *columns])
    for each in statement.usage:
        rows.writerow(["usage", each.day.isoformat(), _cell(each.purpose), each.credits])
    rows.writerow(["balance", "closing", f"{statement.month.end:%Y-%m-%d}", statement.closing.balance])
    return out.getvalue()


def html_of(statement: Statement) -> str:
    """A page to print, without scripts or anything from elsewhere."""
    return _pages.get_template("statement.html").render(statement=statement)


def _cell(text: str) -> str:
    """Text that no spreadsheet evaluates as a formula (OWASP, CSV injection)."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
