"""The result of Stripe's events does not depend on how they are divided into batches."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from embedded.environment import DEVELOPMENT_SIGNING_KEY
from shared.ids import new_id
from shared.signed_metadata import CreditOrder, sign

IS_FULL = os.environ.get("PREPAID_SOAK") == "full"
BEGIN_S = 1_800_000_000
Call = Callable[..., Any]
#: (kind, number of the card, customer or purchase, `created` in seconds). A list has them in the order of delivery.
Fact = tuple[str, int, int]

facts: st.SearchStrategy[list[Fact]] = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["attached", "updated", "detached", "setup_succeeded", "foreign_card"]),
            st.integers(0, 2),
            st.integers(0, 4),
        ),
        st.tuples(st.sampled_from(["default_seen", "customer_deleted"]), st.integers(0, 1), st.integers(0, 4)),
        st.tuples(
            st.sampled_from(["requires_action", "requires_payment_method", "processing", "succeeded", "canceled"]),
            st.integers(0, 1),
            st.integers(0, 4),
        ),
    ),
    min_size=2,
    max_size=12,
)


@pytest.fixture
def rows(worker_engine: AsyncEngine) -> Call:
    """As in conftest, but with the worker's role: a new connection for each of an example's many queries is slow."""

    async def read(sql: str, **parameters: Any) -> Sequence[Any]:
        async with worker_engine.begin() as connection:
            return (await connection.execute(text(sql), parameters)).all()

    return read


class Scenario:
    """Two tenants with a customer and a purchase each, and their cards, under names that no other scenario has."""

    def __init__(self) -> None:
        self.name = new_id("w")

    def tenant(self, number: int) -> str:
        return f"{self.name}-{number}"

    async def insert(self, rows: Call) -> None:
        """Writes the tenants' rows."""
        for number in (0, 1):
            values = {"tenant": self.tenant(number), "customer": f"cus_{self.tenant(number)}"}
            await rows("INSERT INTO profile (tenant_id, version) VALUES (:tenant, 1) RETURNING 1", **values)
            await rows(
                "INSERT INTO customer (tenant_id, create_parameters, stripe_customer, created_at)"
                " VALUES (:tenant, '{}', :customer, now()) RETURNING 1",
                **values,
            )
            await rows(
                "INSERT INTO purchase (tenant_id, purchase_id, state, payment_intent, status, credits, amount_minor,"
                " currency, create_parameters, created_by, created_at) VALUES (:tenant, :purchase, 'open', :intent,"
                " 'requires_payment_method', 100, 500, 'usd', '{}', 'ada', to_timestamp(:begin)) RETURNING 1",
                intent=f"pi_{self.tenant(number)}",
                tenant=self.tenant(number),
                purchase=f"pur_{self.tenant(number)}",
                begin=BEGIN_S,
            )

    def event(self, fact: Fact) -> dict[str, Any]:
        what, number, second = fact
        customer = f"cus_{self.tenant(number % 2)}"
        if what in ("attached", "updated", "detached", "foreign_card"):
            kind = "payment_method.attached" if what == "foreign_card" else f"payment_method.{what}"
            body = {
                "id": f"pm_{self.name}_{number}", "object": "payment_method", "type": "card",
                "customer": {"detached": None, "foreign_card": "cus_of_nobody"}.get(what, customer),
                "card": {"brand": "visa", "last4": "4242", "exp_month": 1, "exp_year": 2030 + second,
                         "fingerprint": f"f{number}"},
            }  # fmt: skip
        elif what == "setup_succeeded":
            kind = "setup_intent.succeeded"
            body = {"id": "seti_1", "status": "succeeded", "customer": customer,
                    "payment_method": f"pm_{self.name}_{number}"}  # fmt: skip
        elif what in ("default_seen", "customer_deleted"):
            kind = "customer.updated" if what == "default_seen" else "customer.deleted"
            default = f"pm_{self.name}_{number}"
            body = {"id": customer, "object": "customer", "invoice_settings": {"default_payment_method": default}}
        else:
            suffix = {"requires_payment_method": "payment_failed"}.get(what, what)
            kind = f"payment_intent.{suffix}"
            order = CreditOrder(
                tenant=self.tenant(number), credits=100, amount_minor=500, currency="usd",
                purchase=f"pur_{self.tenant(number)}",
            )  # fmt: skip
            body = {
                "id": f"pi_{self.tenant(number)}", "object": "payment_intent", "status": what, "amount": 500,
                "amount_received": 500 if what == "succeeded" else 0, "currency": "usd", "created": BEGIN_S,
                "metadata": sign(order, DEVELOPMENT_SIGNING_KEY),
            }  # fmt: skip
        return {
            "id": new_id("evt"), "object": "event", "type": kind, "created": BEGIN_S + second, "livemode": False,
            "data": {"object": body},
        }  # fmt: skip

    async def result(self, rows: Call) -> list[str]:
        """All rows, without the scenario's name and without the times at which they were written."""
        queries = (
            "SELECT tenant_id, payment_method, state, has_details, exp_year, seen_at, look_at IS NULL AS is_known"
            " FROM card WHERE tenant_id LIKE :like ORDER BY 1, 2",
            "SELECT tenant_id, default_payment_method, default_repair_at IS NULL AS is_repaired"
            " FROM profile WHERE tenant_id LIKE :like ORDER BY 1",
            "SELECT tenant_id, stripe_customer FROM customer WHERE tenant_id LIKE :like ORDER BY 1",
            "SELECT tenant_id, state, status, payment_intent, observed_at, look_at IS NULL AS is_done"
            " FROM purchase WHERE tenant_id LIKE :like ORDER BY 1",
            "SELECT payment_method, detached_at IS NULL AS is_attached FROM payment_method_lock"
            " WHERE payment_method LIKE :card ORDER BY 1",
        )
        names = {"like": f"{self.name}-%", "card": f"pm_{self.name}_%"}
        return [
            str(tuple(row)).replace(self.name, "w")
            for sql in queries
            for row in await rows(sql, **{key: value for key, value in names.items() if f":{key}" in sql})
        ]


async def _result_of(history: Sequence[Fact], cuts: Sequence[bool] | None, rows: Call, deliver: Call) -> list[str]:
    """The rows after these facts. A batch ends after each fact for which `cuts` is true (None: after every one)."""
    scenario = Scenario()
    await scenario.insert(rows)
    batch: list[dict[str, Any]] = []
    for position, fact in enumerate(history):
        batch.append(scenario.event(fact))
        if cuts is None or cuts[position % len(cuts)] or position == len(history) - 1:
            await deliver(batch)
            batch = []
    return await scenario.result(rows)


@pytest.mark.timeout(1800 if IS_FULL else 120)
@settings(
    max_examples=300 if IS_FULL else 15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(history=[("customer_deleted", 0, 3), ("attached", 0, 1)], cuts=[False])
@example(history=[("attached", 0, 1), ("customer_deleted", 0, 3), ("setup_succeeded", 2, 3)], cuts=[False])
@example(history=[("detached", 0, 3), ("attached", 0, 1), ("default_seen", 0, 1)], cuts=[False])
@given(history=facts, cuts=st.lists(st.booleans(), min_size=1, max_size=6))
async def test_events_have_the_same_result_in_batches_of_any_size(
    rows: Call, deliver: Call, history: list[Fact], cuts: list[bool]
) -> None:
    assert await _result_of(history, cuts, rows, deliver) == await _result_of(history, None, rows, deliver)


async def test_a_card_attached_before_its_customer_was_deleted_is_never_usable(rows: Call, deliver: Call) -> None:
    """Not even where the older event comes later, in the same batch."""
    scenario = Scenario()
    await scenario.insert(rows)
    await deliver([scenario.event(("customer_deleted", 0, 3)), scenario.event(("attached", 0, 1))])
    assert await rows("SELECT 1 FROM card WHERE state = 'attached'") == []
    assert [row.default_payment_method for row in await rows("SELECT * FROM profile")] == [None, None]
