"""Recharge without Kafka, for tests: they call handlers with records, run steps one by one, and advance the clock.

The environment also acts as payments (profiles) and as the ledger (balances, entries) for its tenants.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import stripe
from pydantic_core import from_json, to_json
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from embedded.testing import ServiceDatabase, stripe_settings
from recharge.handlers import StripeEventHandler, on_balances, on_billing_profiles, on_entries, on_packages, on_requests
from recharge.repository.attempts import due_attempts
from recharge.repository.decisions import due_tenants
from recharge.repository.locks import lock_tenants
from recharge.repository.topic_progress import save_progress
from recharge.stripe_gateway import StripeGateway, open_stripe_gateway
from recharge.workflows.decide_tenants import decide_tenants
from recharge.workflows.rate_limiter import RateLimiter
from recharge.workflows.steps import StepRunner
from shared.clock import transaction_time, utc_now
from shared.consumer import Handler
from shared.database import make_engine
from shared.events import (
    AttemptChanged,
    AutoRecharge,
    BalanceChanged,
    BillingProfile,
    Card,
    Consent,
    CreditPackage,
    DomainEvent,
    EntryPosted,
    RechargeRequested,
    decode,
    encode,
)
from shared.ids import new_id
from shared.kafka import Record
from shared.outbox import Outbox, OutboxEvent, StateMark
from shared.topics import BY_NAME, TopicName
from stripe_simulator.settings import Settings
from stripe_simulator.testing import RunningSimulator

SIGNING_KEY = "test-metadata-key-0123456789-0123456789"
CATALOG = tuple(
    CreditPackage(package=name, version=1, name=name, credits=credits, price_minor=price, currency="usd", active=True)
    for name, credits, price in (("small", 100, 500), ("medium", 1_000, 4_500), ("large", 5_000, 20_000))
)


@dataclass
class Published:
    """A publisher that keeps what it is given."""

    events: list[OutboxEvent] = field(default_factory=list[OutboxEvent])

    def submit(self, events: list[OutboxEvent], marks: list[StateMark]) -> None:
        self.events += events

    def states(self, tenant: str) -> list[str]:
        """The published states of a tenant's attempts, in order."""
        changes = [decode(event.value, AttemptChanged) for event in self.events if event.tenant == tenant]
        return [change.state for change in changes if change is not None]


@dataclass
class RechargeEnvironment:
    """Recharge on its own database and Stripe simulator."""

    engine: AsyncEngine
    outbox: Outbox
    published: Published
    steps: StepRunner
    simulator: RunningSimulator
    stripe: stripe.StripeClient
    database: ServiceDatabase
    offset: timedelta = timedelta(0)
    progress_age: timedelta = timedelta(0)
    profiles: dict[str, BillingProfile] = field(default_factory=dict[str, BillingProfile])
    balances: dict[str, BalanceChanged] = field(default_factory=dict[str, BalanceChanged])

    @property
    def now(self) -> datetime:
        return utc_now() + self.offset

    def advance_clock(self, by: timedelta) -> None:
        """Advances recharge's clock and Stripe's."""
        self.offset += by
        self.simulator.post("/clock/advance", seconds=by.total_seconds())

    # payments

    async def tenant(self, *cards: str, available: int = 10, **settings: Any) -> str:
        """A tenant as made by `make_tenant`, whose profile and balance recharge has received."""
        tenant = await self.make_tenant(*cards, available=available, **settings)
        await self.receive(on_billing_profiles, self.profiles[tenant])
        await self.receive(on_balances, self.balances[tenant])
        return tenant

    async def make_tenant(self, *cards: str, available: int = 10, **settings: Any) -> str:
        """A tenant with these test cards (`pm_card_visa`), the first the default, recharged below 50 credits."""
        tenant = new_id("tenant")
        customer = (await self.stripe.v1.customers.create_async({"metadata": {"tenant": tenant}})).id
        saved = [await self.save_card(customer, card) for card in cards]
        chosen = saved[0].payment_method if saved else None
        values: dict[str, Any] = {
            "enabled": True, "threshold_credits": 50, "amount_minor": 5_000, "currency": "usd",
            "monthly_cap_minor": 20_000, "consent": Consent(text_version="1", given_by="ada", given_at=self.now),
            "payment_method": chosen,
        } | settings  # fmt: skip
        self.profiles[tenant] = BillingProfile(
            tenant=tenant,
            version=1,
            stripe_customer=customer,
            cards=tuple(saved),
            default_payment_method=chosen,
            auto_recharge=AutoRecharge(**values),
            changed_at=self.now,
        )
        self.balances[tenant] = BalanceChanged(
            tenant=tenant, version=1, available=available, held=0, owed=0, receivable=0, changed_at=self.now
        )
        return tenant

    async def save_card(self, customer: str, card: str) -> Card:
        """Attaches a test card and returns it as payments would show it."""
        saved = await self.stripe.v1.payment_methods.attach_async(card, {"customer": customer})
        details = saved.card
        assert details is not None
        return Card(
            payment_method=saved.id, brand=details.brand, last4=details.last4, exp_month=details.exp_month,
            exp_year=details.exp_year, fingerprint=details.fingerprint, usable=True,
        )  # fmt: skip

    async def profile(self, tenant: str, **changes: Any) -> None:
        """Publishes the tenant's profile with changes. Another default is its owner's choice for recharge too."""
        old = self.profiles[tenant]
        if changes.get("default_payment_method") and "auto_recharge" not in changes and old.auto_recharge:
            chosen = {"payment_method": changes["default_payment_method"]}
            changes["auto_recharge"] = old.auto_recharge.model_copy(update=chosen)
        self.profiles[tenant] = old.model_copy(update={"version": old.version + 1, **changes})
        await self.receive(on_billing_profiles, self.profiles[tenant])

    async def settings(self, tenant: str, **changes: Any) -> None:
        """Its owner saves other settings, with consent anew unless that is given too."""
        consent = Consent(text_version="1", given_by="ada", given_at=self.now)
        old = self.profiles[tenant].auto_recharge
        assert old is not None
        await self.profile(tenant, auto_recharge=old.model_copy(update={"consent": consent, **changes}))

    async def request(self, tenant: str, *, expires_in: timedelta = timedelta(minutes=10)) -> str:
        """Its owner asks to be recharged now."""
        event = RechargeRequested(
            tenant=tenant, request=new_id("req"), requested_by="ada", requested_at=self.now,
            expires_at=self.now + expires_in,
        )  # fmt: skip
        await self.receive(on_requests, event)
        return event.request

    # the ledger

    async def balance(self, tenant: str, available: int, receivable: int = 0) -> None:
        """The ledger announces a balance."""
        old = self.balances.get(tenant)
        self.balances[tenant] = BalanceChanged(
            tenant=tenant, version=old.version + 1 if old else 1, available=available, held=0, owed=receivable,
            receivable=receivable, changed_at=self.now,
        )  # fmt: skip
        await self.receive(on_balances, self.balances[tenant])

    async def credit(self, tenant: str, kind: str = "recharge") -> None:
        """The ledger posts what Stripe's books say was charged last for this tenant, and then its balance."""
        entry = self.entry(tenant, kind)
        await self.receive(on_entries, entry)
        await self.balance(tenant, self.balances[tenant].available + entry.credits)

    def entry(self, tenant: str, kind: str = "recharge", charge: dict[str, Any] | None = None) -> EntryPosted:
        """What the ledger posts for this charge, or the tenant's last one."""
        charge = charge or self.charges(tenant)[-1]
        metadata = charge["metadata"]
        return EntryPosted(
            tenant=tenant, reference=charge["payment_intent"], door="stripe", kind=kind,
            credits=int(metadata["credits"]) if kind == "recharge" else 0,
            amount_minor=charge["amount_minor"], currency=charge["currency"], payment_intent=charge["payment_intent"],
            attempt=metadata["attempt"], balance_version=self.balances[tenant].version + 1, posted_at=self.now,
        )  # fmt: skip

    # Stripe

    def charges(self, tenant: str) -> list[dict[str, Any]]:
        """Every charge that succeeded for the tenant, by Stripe's books."""
        customer = self.profiles[tenant].stripe_customer
        return [charge for charge in self.simulator.get("/books")["charges"] if charge["customer"] == customer]

    def fault(self, kind: str, **more: Any) -> None:
        """Makes Stripe's API fail."""
        self.simulator.post("/faults", kind=kind, **more)

    async def payment_intents(self, tenant: str) -> list[stripe.PaymentIntent]:
        """Every PaymentIntent of the tenant."""
        customer = self.profiles[tenant].stripe_customer
        assert customer is not None
        return (await self.stripe.v1.payment_intents.list_async({"customer": customer, "limit": 100})).data

    async def webhooks(self, tenant: str, *, reverse: bool = False, times: int = 1) -> None:
        """Delivers all of Stripe's events about the tenant's PaymentIntents."""
        events = (await self.stripe.v1.events.list_async({"limit": 100})).data
        customer = self.profiles[tenant].stripe_customer
        bodies = [from_json(to_json(event.to_dict(for_json=True))) for event in events]
        mine = [
            body
            for body in bodies
            if body["type"].startswith("charge.dispute.") or body["data"]["object"].get("customer") == customer
        ]
        for body in (mine if reverse else mine[::-1]) * times:
            await self.call(
                StripeEventHandler([SIGNING_KEY]).handle, [Record("stripe.events", 0, 0, "key", to_json(body))]
            )

    # recharge

    async def receive(self, handler: Handler, *events: DomainEvent) -> None:
        """Handles events as one batch."""
        records = [
            Record(event.TOPIC, 0, offset, event.key, encode(event, event_id=new_id("evt"), now=self.now))
            for offset, event in enumerate(events)
        ]
        await self.call(handler, records)

    async def call(self, handler: Handler, records: Sequence[Record]) -> None:
        await self.refresh_progress()
        async with self.outbox.transaction(self.engine) as transaction:
            await handler(transaction, records)

    async def refresh_progress(self) -> None:
        """The worker has read the profile topic to its end, `progress_age` ago."""
        topic = TopicName.BILLING_PROFILE_CHANGED
        async with self.engine.begin() as connection:
            await connection.execute(text("DELETE FROM topic_progress"))
            at = self.now - self.progress_age
            await save_progress(connection, [(topic, number, at) for number in range(BY_NAME[topic].partitions)])

    async def work(self, rounds_max: int = 20) -> None:
        """Runs steps of due attempts until none is due."""
        for _ in range(rounds_max):
            await self.refresh_progress()
            async with self.engine.connect() as connection:
                due = await due_attempts(connection, self.now, [], 100)
            if not due:
                return
            for row in due:
                await self.steps.run(row.tenant_id, row.attempt)
        raise AssertionError(f"something is still due after {rounds_max} rounds")

    async def decide_again(self) -> None:
        """What the periodic job does."""
        await self.refresh_progress()
        async with self.outbox.transaction(self.engine) as transaction:
            due = await due_tenants(transaction.connection, self.now, 100)
            await lock_tenants(transaction.connection, due)
            await decide_tenants(transaction, due, self.now)

    def gateway_with_key(self, secret_key: str) -> AbstractAsyncContextManager[StripeGateway]:
        """A gateway with another API key."""
        return open_stripe_gateway(stripe_settings(self.simulator.url, secret_key))

    def use_gateway(self, gateway: StripeGateway) -> None:
        """From now on steps use this gateway."""
        self.steps = replace(self.steps, gateway=gateway)

    async def rows(self, sql: str, **parameters: Any) -> list[dict[str, Any]]:
        """What the database holds, as the worker sees it."""
        async with self.engine.connect() as connection:
            return [dict(row._mapping) for row in await connection.execute(text(sql), parameters)]

    async def update_rows(self, sql: str) -> None:
        """Changes rows directly, as if time had passed."""
        async with self.engine.begin() as connection:
            await connection.execute(text(sql))

    async def attempt(self, tenant: str) -> dict[str, Any]:
        """The tenant's newest attempt."""
        rows = await self.rows("SELECT * FROM attempt WHERE tenant_id = :t ORDER BY attempt DESC LIMIT 1", t=tenant)
        return rows[0]

    async def attempts(self, tenant: str) -> list[dict[str, Any]]:
        """All of the tenant's attempts, oldest first."""
        return await self.rows("SELECT * FROM attempt WHERE tenant_id = :t ORDER BY attempt", t=tenant)

    async def last_reason(self, tenant: str) -> str | None:
        """Why the tenant was not charged, by the newest decision."""
        rows = await self.rows("SELECT reason FROM decision WHERE tenant_id = :t ORDER BY id DESC LIMIT 1", t=tenant)
        return rows[0]["reason"] if rows else None


@asynccontextmanager
async def open_environment(
    database: ServiceDatabase, simulator: RunningSimulator
) -> AsyncGenerator[RechargeEnvironment]:
    """An environment with the catalog."""
    engine = make_engine(database.worker_url, application_name="recharge-test", pool_size=12)
    published = Published()

    async def clock(connection: AsyncConnection) -> datetime:
        return await transaction_time(connection) + environment.offset

    outbox = Outbox(published, clock)
    http = stripe.HTTPXClient()
    client = simulator.client(http_client=http)
    try:
        async with open_stripe_gateway(stripe_settings(simulator.url, Settings.secret_key), timeout_s=2.0) as gateway:
            steps = StepRunner(engine, outbox, gateway, RateLimiter(100), [SIGNING_KEY])
            environment = RechargeEnvironment(engine, outbox, published, steps, simulator, client, database)
            await environment.receive(on_packages, *CATALOG)
            yield environment
    finally:
        await http.close_async()
        await engine.dispose()
