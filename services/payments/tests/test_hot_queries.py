"""Every statement of a batch, a job or a route uses an index in tables of many rows."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.testing import Databases, ServiceDatabase
from payments.repository import cards, customers, idempotency, paid_purchases, profiles, purchases, read_models
from shared.clock import utc_now
from shared.database import make_engine

ROWS = 20_000
FILL = f"""
    INSERT INTO profile (tenant_id, version) SELECT 't' || n, 1 FROM generate_series(1, {ROWS}) n;
    INSERT INTO customer SELECT 't' || n, 1, '{{}}', 'cus_' || n, now() FROM generate_series(1, {ROWS}) n;
    INSERT INTO card SELECT 't' || n, 'pm_' || n, 'attached', true, 'visa', '4242', 1, 2040, 'fp', now(),
        CASE WHEN n % 1000 = 0 THEN now() END, NULL FROM generate_series(1, {ROWS}) n;
    INSERT INTO payment_method_lock SELECT 'pm_' || n FROM generate_series(1, {ROWS}) n;
    INSERT INTO purchase SELECT 't' || n % 1000, 'pur_' || n, CASE WHEN n % 100 = 0 THEN 'open' ELSE 'succeeded' END,
        'starter', 1, 1, 'usd', '{{}}', 1, 'pi_' || n, 'succeeded', NULL, now(),
        CASE WHEN n % 100 = 0 THEN now() END, 'u', now() - n * interval '1 s' FROM generate_series(1, {ROWS}) n;
    INSERT INTO idempotency SELECT 't' || n % 1000, 'r', 'k' || n, 'h', 'x', 1, NULL, now() - n * interval '1 s'
        FROM generate_series(1, {ROWS}) n;
    INSERT INTO entry SELECT 't' || n % 1000, 'stripe', 'pi_' || n, 'purchase', 1, 1, 'usd', NULL, NULL, NULL, n,
        now() - n * interval '1 s' FROM generate_series(1, {ROWS}) n;
    INSERT INTO attempt SELECT 't' || n % 1000, 'att_' || n, 1, CASE WHEN n % 100 = 0 THEN 'charging' ELSE 'credited'
        END, 'automatic', NULL, 1, 'usd', 1, NULL, NULL, 1, now() - n * interval '1 s', now()
        FROM generate_series(1, {ROWS}) n;
    ANALYZE;
"""

SOME = ["t1", "t7", "t99"]
PAIR = {"tenants": ["t1", "t2"], "ids": ["pm_1", "pur_2"]}
DUE = {"now": utc_now(), "limit": 10}
PAGE = {"tenant": "t1", "at": utc_now(), "kind": "entry", "item_id": "stripe:pi_1", "limit": 50}
REQUEST = {"tenant": "t1", "route": "r", "key": "k1"}
QUERIES: dict[str, tuple[TextClause, dict[str, Any]]] = {
    "lock profiles": (profiles._LOCK, {"tenants": SOME}),
    "next versions": (profiles._NEXT_VERSION, {"tenants": SOME, "now": utc_now()}),
    "billing profiles": (profiles._LOAD, {"tenants": SOME}),
    "default repairs": (profiles._CLAIM_REPAIRS, DUE),
    "customers": (customers._TENANTS, {"stripe_customers": ["cus_1", "cus_2"]}),
    "unlink customers": (customers._UNLINK, {"stripe_customers": ["cus_1", "cus_2"]}),
    "lock cards": (cards._LOCK, {"payment_methods": ["pm_1", "pm_2"]}),
    "tenants of cards": (cards._TENANTS, {"payment_methods": ["pm_1", "pm_2"]}),
    "cards": (cards._LOAD, PAIR),
    "attached cards": (cards._ATTACHED, {"tenants": SOME}),
    "attached cards to be retrieved": (cards._SCHEDULE_RETRIEVAL_OF_ATTACHED, {"tenants": SOME, "now": utc_now()}),
    "due cards": (cards._CLAIM_DUE, {**DUE, "until": utc_now()}),
    "old locks": (cards._DELETE_OLD_LOCKS, {"before": utc_now().replace(year=2020)}),
    "purchases": (purchases._LOAD, PAIR),
    "customer of a purchase": (
        purchases._CHANGE_CUSTOMER,
        {"tenant": "t1", "purchase": "pur_1", "try": 1, "customer": "cus_2"},
    ),
    "purchases that block a recharge": (purchases._CLAIM_BLOCKING_RECHARGE, {**DUE, "acted_before": utc_now()}),
    "requested recharge": (purchases._RECORD_REQUESTED_RECHARGE, {"tenant": "t1", "until": utc_now()}),
    "due purchases": (purchases._CLAIM_DUE, DUE),
    "credited purchases": (paid_purchases._STOP_WATCHING_CREDITED, {"suffix": ":unapplied"}),
    "overdue credits": (paid_purchases._OVERDUE, {"now": utc_now()}),
    "unfinished purchases": (purchases._COUNT_UNFINISHED, {"tenant": "t1"}),
    "idempotency key": (idempotency._FIND, REQUEST),
    "old idempotency keys": (idempotency._DELETE_OLD, {"before": utc_now().replace(year=2020)}),
    "attempt under way": (read_models._ATTEMPT_UNDER_WAY, {"tenant": "t1"}),
    "balance": (read_models._BALANCE, {"tenant": "t1"}),
    "history": (read_models._HISTORY, PAGE),
    "first page of history": (read_models._HISTORY, PAGE | {"at": None, "kind": None, "item_id": None}),
}


@pytest.fixture(scope="module")
def filled_database(databases: Databases) -> Iterator[ServiceDatabase]:
    made = databases.create("payments")
    databases.server.execute(FILL, made.name)
    yield made
    databases.drop(made)


@pytest.fixture
async def engine(filled_database: ServiceDatabase) -> Any:
    made = make_engine(filled_database.worker_url, application_name="payments-test-plans", pool_size=1)
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
    """The tables that a plan scans sequentially, except the empty ones."""
    walk: Callable[[Any], Iterator[str]] = _scanned
    if isinstance(node, list):
        for each in node:
            yield from walk(each)
    elif isinstance(node, dict):
        if node.get("Node Type") == "Seq Scan" and node["Relation Name"] not in ("auto_recharge", "consent", "balance"):
            yield node["Relation Name"]
        for each in node.values():
            yield from walk(each)
