"""Purchases."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from payments.core.purchases import OPEN_FOR_WHILE_RECHARGE_NEEDED, Progress, PurchaseState

#: Tenant and purchase id.
PurchaseKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Purchase:
    """A purchase. `state_since` is as in `OpenPurchase`. `blocks_recharge`: a recharge waits for it.

    `create_parameters`: what its PaymentIntent is created with, in every try; only the customer may change.
    `creation_try` numbers Stripe's keys for that. `insisted`: its user wants it also while a recharge is under way.
    """

    tenant: str
    purchase_id: str
    package_id: str | None
    credits: int
    amount_minor: int
    currency: str
    create_parameters: Mapping[str, Any]
    creation_try: int
    created_by: str
    created_at: datetime
    insisted: bool
    progress: Progress
    state_since: datetime
    blocks_recharge: bool = False

    @property
    def idempotency_key(self) -> str:
        """Stripe's key for creating its PaymentIntent. A 5xx is final for its key, so the next try has another one."""
        return self.purchase_id + (f":{self.creation_try}" if self.creation_try > 1 else "")

    @property
    def stripe_customer(self) -> str:
        """The customer of its PaymentIntent."""
        return str(self.create_parameters["customer"])


async def insert(connection: AsyncConnection, purchase: Purchase) -> None:
    """Writes a new purchase of a tenant whose profile is locked."""
    await connection.execute(
        _INSERT,
        {
            "tenant": purchase.tenant,
            "purchase": purchase.purchase_id,
            "state": purchase.progress.state,
            "package": purchase.package_id,
            "credits": purchase.credits,
            "amount_minor": purchase.amount_minor,
            "currency": purchase.currency,
            "parameters": json.dumps(dict(purchase.create_parameters)),
            "look_at": purchase.progress.look_at,
            "created_by": purchase.created_by,
            "created_at": purchase.created_at,
            "insisted": purchase.insisted,
        },
    )


async def count_unfinished(connection: AsyncConnection, tenant: str) -> int:
    """How many purchases of the tenant may still succeed."""
    return (await connection.execute(_COUNT_UNFINISHED, {"tenant": tenant})).scalar_one()


async def load(connection: AsyncConnection, keys: Iterable[PurchaseKey]) -> dict[PurchaseKey, Purchase]:
    """The purchases by key; unknown ones are left out. They do not change while their profiles are locked."""
    ordered = sorted(set(keys))
    rows = await connection.execute(_LOAD, {"tenants": [key[0] for key in ordered], "ids": [key[1] for key in ordered]})
    return {(row.tenant_id, row.purchase_id): _purchase(row) for row in rows}


async def save_progress(connection: AsyncConnection, progress: Mapping[PurchaseKey, Progress]) -> None:
    """Writes the progress of purchases whose profiles are locked."""
    if not progress:
        return
    ordered = sorted(progress.items())
    await connection.execute(
        _SAVE,
        {
            "tenants": [key[0] for key, _ in ordered],
            "ids": [key[1] for key, _ in ordered],
            "states": [each.state for _, each in ordered],
            "intents": [each.payment_intent for _, each in ordered],
            "statuses": [each.status for _, each in ordered],
            "declines": [each.decline_code for _, each in ordered],
            "observed": [each.observed_at for _, each in ordered],
            "looks": [each.look_at for _, each in ordered],
        },
    )


async def increment_creation_try(connection: AsyncConnection, purchase: Purchase) -> None:
    """Moves on to the next Stripe key, because Stripe repeats a 5xx under this one and created nothing."""
    await connection.execute(
        _NEXT_TRY, {"tenant": purchase.tenant, "purchase": purchase.purchase_id, "try": purchase.creation_try}
    )


async def change_customer(connection: AsyncConnection, purchase: Purchase, stripe_customer: str) -> Purchase | None:
    """Changes the customer of a purchase and moves on to its next Stripe key; returns the changed purchase.

    Returns None where another request did so meanwhile, or the purchase has its PaymentIntent.
    """
    values = {"tenant": purchase.tenant, "purchase": purchase.purchase_id, "try": purchase.creation_try}
    row = (await connection.execute(_CHANGE_CUSTOMER, values | {"customer": stripe_customer})).one_or_none()
    return None if row is None else _purchase(row)


async def claim_due(connection: AsyncConnection, now: datetime, limit: int) -> Sequence[Purchase]:
    """Claims due purchases: they are due again after two minutes, in case this process dies."""
    return [_purchase(row) for row in await connection.execute(_CLAIM_DUE, {"now": now, "limit": limit})]


async def claim_blocking_recharge(connection: AsyncConnection, now: datetime, limit: int) -> Sequence[Purchase]:
    """Claims abandoned open purchases that block a recharge, in the same way."""
    values = {"now": now, "limit": limit, "acted_before": now - OPEN_FOR_WHILE_RECHARGE_NEEDED}
    return [_purchase(row) for row in await connection.execute(_CLAIM_BLOCKING_RECHARGE, values)]


async def record_requested_recharge(connection: AsyncConnection, tenant: str, until: datetime) -> None:
    """Records on the tenant's open purchases that a requested recharge waits for them until then."""
    await connection.execute(_RECORD_REQUESTED_RECHARGE, {"tenant": tenant, "until": until})


def _purchase(row: Any) -> Purchase:
    return Purchase(
        tenant=row.tenant_id,
        purchase_id=row.purchase_id,
        package_id=row.package_id,
        credits=row.credits,
        amount_minor=row.amount_minor,
        currency=row.currency,
        create_parameters=row.create_parameters,
        creation_try=row.creation_try,
        created_by=row.created_by,
        created_at=row.created_at,
        insisted=row.insisted,
        state_since=row.state_since,
        blocks_recharge=getattr(row, "blocks_recharge", False),
        progress=Progress(
            state=PurchaseState(row.state),
            payment_intent=row.payment_intent,
            status=row.status,
            decline_code=row.decline_code,
            observed_at=row.observed_at,
            look_at=row.look_at,
        ),
    )


_INSERT = text("""
    INSERT INTO purchase (tenant_id, purchase_id, state, package_id, credits, amount_minor, currency,
                          create_parameters, look_at, created_by, created_at, insisted)
    VALUES (:tenant, :purchase, :state, :package, :credits, :amount_minor, :currency,
            CAST(:parameters AS jsonb), :look_at, :created_by, :created_at, :insisted)
""")

_COUNT_UNFINISHED = text("""
    SELECT count(*) FROM purchase WHERE tenant_id = :tenant AND state IN ('created', 'open', 'processing')
""")

_LOAD = text("""
    SELECT purchase.* FROM purchase
    JOIN unnest(CAST(:tenants AS text[]), CAST(:ids AS text[])) AS wanted (tenant, id)
        ON purchase.tenant_id = wanted.tenant AND purchase.purchase_id = wanted.id
""")

_SAVE = text("""
    UPDATE purchase SET state = new.state, payment_intent = new.intent, status = new.status,
        decline_code = new.decline, observed_at = new.observed, look_at = new.look,
        state_since = CASE
            WHEN purchase.state = 'created' AND new.state = 'open' THEN state_since
            WHEN (purchase.state, purchase.status, purchase.decline_code)
                IS DISTINCT FROM (new.state, new.status, new.decline) THEN now()
            WHEN new.decline IS NOT NULL AND new.observed > purchase.observed_at THEN now()  -- declined once more
            ELSE state_since END
    FROM unnest(CAST(:tenants AS text[]), CAST(:ids AS text[]), CAST(:states AS text[]), CAST(:intents AS text[]),
                CAST(:statuses AS text[]), CAST(:declines AS text[]), CAST(:observed AS timestamptz[]),
                CAST(:looks AS timestamptz[]))
        AS new (tenant, id, state, intent, status, decline, observed, look)
    WHERE purchase.tenant_id = new.tenant AND purchase.purchase_id = new.id
""")

_NEXT_TRY = text("""
    UPDATE purchase SET creation_try = creation_try + 1
    WHERE tenant_id = :tenant AND purchase_id = :purchase AND creation_try = :try
""")

_CHANGE_CUSTOMER = text("""
    UPDATE purchase SET creation_try = creation_try + 1,
        create_parameters = jsonb_set(create_parameters, '{customer}', to_jsonb(CAST(:customer AS text)))
    WHERE tenant_id = :tenant AND purchase_id = :purchase AND creation_try = :try AND payment_intent IS NULL
    RETURNING *
""")

# A claimed purchase is due within two minutes, so this does not claim it again. As in the service recharge, a tenant
# needs a recharge where its available credits are below the threshold, or 0.
_CLAIM_BLOCKING_RECHARGE = text("""
    WITH found AS (
        SELECT tenant_id, purchase_id FROM purchase
        LEFT JOIN auto_recharge USING (tenant_id) LEFT JOIN balance USING (tenant_id)
        WHERE state = 'open' AND payment_intent IS NOT NULL AND state_since <= :acted_before
          AND look_at > CAST(:now AS timestamptz) + interval '2 minutes'
          AND (recharge_waits_until > :now
               OR enabled AND consent_id IS NOT NULL AND available < GREATEST(threshold_credits, 1))
        ORDER BY tenant_id, purchase_id LIMIT :limit
        FOR UPDATE OF purchase SKIP LOCKED
    )
    UPDATE purchase SET look_at = CAST(:now AS timestamptz) + interval '2 minutes'
    FROM found WHERE purchase.tenant_id = found.tenant_id AND purchase.purchase_id = found.purchase_id
    RETURNING purchase.*, true AS blocks_recharge
""")

_RECORD_REQUESTED_RECHARGE = text("""
    UPDATE purchase SET recharge_waits_until = :until WHERE tenant_id = :tenant AND state IN ('created', 'open')
""")

_CLAIM_DUE = text("""
    UPDATE purchase SET look_at = CAST(:now AS timestamptz) + interval '2 minutes'
    WHERE (tenant_id, purchase_id) IN (
        SELECT tenant_id, purchase_id FROM purchase WHERE look_at <= :now AND state <> 'succeeded'
        ORDER BY look_at LIMIT :limit
        FOR UPDATE SKIP LOCKED)
    RETURNING *
""")
