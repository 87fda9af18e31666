"""The queries about refused orders use an index in tables that are not small."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.testing import Databases, ServiceDatabase
from recharge.core.breakers import REFUSED_WITHIN
from recharge.repository import breakers
from shared.clock import utc_now
from shared.database import make_engine

ROWS = 20_000
#: Tables with a row for everything, a package or a currency, not for each tenant.
SMALL = ("breaker", "scoped_breaker")
FILL = f"""
    INSERT INTO profile (tenant_id, version, refused_at, refused_package, refused_currency)
        SELECT 't' || n, 1, CASE WHEN n % 500 = 0 THEN now() - n * interval '1 s' END, 'medium', 'usd'
        FROM generate_series(1, {ROWS}) n;
    INSERT INTO attempt (tenant_id, attempt, version, state, trigger, amount_minor, currency, credits, package,
                         limited_by_cap, stripe_customer, profile_version, created_at, changed_at, next_at)
        SELECT 't' || n, 'att_' || n, 1, CASE WHEN n % 500 = 0 THEN 'reserved' ELSE 'credited' END, 'automatic', 4500,
               'usd', 1000, 'medium', false, 'cus_' || n, 1, now(), now(), now() FROM generate_series(1, {ROWS}) n;
    INSERT INTO attempt_try (tenant_id, attempt, n, payment_method, idempotency_key, creates, parameters,
                             first_called_at, calls, in_doubt, server_errors, outcome, may_repeat, answered_at)
        SELECT 't' || n, 'att_' || n, 1, 'pm_' || n, 'att_' || n || ':1', true, '{{}}', now(), 1, false, 0,
               'succeeded', true, now() - n * interval '1 min' FROM generate_series(1, {ROWS}) n;
    UPDATE breaker SET failures = 1, open_until = now(), failed_tenants = '{{t1}}';
    INSERT INTO scoped_breaker VALUES ('package', 'medium', now(), 1, false, '{{t1}}');
    ANALYZE;
"""
SINCE = {"since": utc_now() - REFUSED_WITHIN, "limit": 1_000}
QUERIES: dict[str, tuple[TextClause, dict[str, Any]]] = {
    "refusals": (breakers._REFUSALS, SINCE),
    "charges": (breakers._CHARGED, SINCE),
    "probes": (breakers._PROBES, {"now": utc_now() - timedelta(hours=1), "package": "medium", "currency": "usd"}),
    "a refusal": (breakers._SAVE_REFUSAL, {"tenant": "t1", "package": "p", "currency": "usd", "now": utc_now()}),
}


@pytest.fixture(scope="module")
def filled_database(databases: Databases) -> Iterator[ServiceDatabase]:
    made = databases.create("recharge")
    databases.server.execute(FILL, made.name)
    yield made
    databases.drop(made)


@pytest.fixture
async def engine(filled_database: ServiceDatabase) -> Any:
    made = make_engine(filled_database.worker_url, application_name="recharge-test-plans", pool_size=1)
    yield made
    await made.dispose()


@pytest.mark.parametrize("name", QUERIES)
async def test_statements_use_an_index(engine: AsyncEngine, name: str) -> None:
    statement, parameters = QUERIES[name]
    async with engine.connect() as connection:
        plan = (await connection.execute(text(f"EXPLAIN (FORMAT JSON) {statement.text}"), parameters)).scalar_one()
        await connection.rollback()
    scanned = list(_scanned(json.loads(plan) if isinstance(plan, str) else plan))
    assert scanned == [], f"{name} reads all of {scanned}"


def _scanned(node: Any) -> Iterator[str]:
    """The tables that a plan scans sequentially, except those that stay small."""
    walk: Callable[[Any], Iterator[str]] = _scanned
    if isinstance(node, list):
        for each in node:
            yield from walk(each)
    elif isinstance(node, dict):
        if node.get("Node Type") == "Seq Scan" and node["Relation Name"] not in SMALL:
            yield node["Relation Name"]
        for each in node.values():
            yield from walk(each)
