"""What each event from payments and the ledger does: keep the newest input, move attempts, decide again."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from recharge.core.other_payments import after_credit_entry, after_receipt_entry
from recharge.core.transitions import OtherPayment
from recharge.repository.attempts import load_attempts, load_tries
from recharge.repository.breakers import forget_packages
from recharge.repository.inputs import (
    freeze_tenant,
    save_balances,
    save_entries,
    save_packages,
    save_profiles,
    save_requests,
)
from recharge.repository.situations import catalog_changed, lock_tenants
from recharge.workflows.apply_transitions import apply_transitions
from recharge.workflows.decide_tenants import decide_tenants
from shared.events import (
    BalanceChanged,
    BillingProfile,
    CreditPackage,
    DomainEvent,
    EntryPosted,
    RechargeRequested,
    ReversalRefused,
    UndecodableEvent,
    decode,
)
from shared.kafka import Record
from shared.logs import get_logger
from shared.outbox import Transaction
from shared.poison import Poison

log = get_logger()

#: The entry by which the credits of a charge arrive: by itself, or by an operator who credited its receipt.
RECHARGE = "recharge"
UNAPPLIED_RECEIPT = "unapplied_receipt"

EventT = TypeVar("EventT", bound=DomainEvent)


def read(records: Sequence[Record], kind: type[EventT]) -> list[EventT]:
    """The events of the records; types we do not know are left out, bytes we cannot read are poison."""
    try:
        events = [decode(record.value, kind) for record in records]
    except UndecodableEvent as error:
        raise Poison(str(error)) from error
    return [event for event in events if event is not None]


async def on_billing_profiles(transaction: Transaction, records: Sequence[Record]) -> None:
    """Keeps the newest profiles and decides about their tenants."""
    profiles = read(records, BillingProfile)
    await lock_tenants(transaction.connection, (profile.tenant for profile in profiles))
    tenants = await save_profiles(transaction.connection, profiles)
    await decide_tenants(transaction, tenants, transaction.now)


async def on_balances(transaction: Transaction, records: Sequence[Record]) -> None:
    """Keeps the newest balances and decides about their tenants. This is the way from a debit to a charge."""
    tenants = await save_balances(transaction.connection, read(records, BalanceChanged))
    await decide_tenants(transaction, tenants, transaction.now)


async def on_entries(transaction: Transaction, records: Sequence[Record]) -> None:
    """Ends the attempts whose credits have been posted; holds those whose receipt could not be applied."""
    now = transaction.now
    entries = read(records, EntryPosted)
    connection = transaction.connection
    await save_entries(connection, entries)
    await _move_attempts(transaction, [entry for entry in entries if entry.attempt], now)
    await decide_tenants(transaction, {entry.tenant for entry in entries}, now)


async def _move_attempts(transaction: Transaction, entries: Sequence[EntryPosted], now: datetime) -> None:
    """One entry after the other: several may name one attempt, by different PaymentIntents."""
    of_charges = [entry for entry in entries if entry.kind in (RECHARGE, UNAPPLIED_RECEIPT)]
    if not of_charges:
        return
    attempts = await load_attempts(transaction.connection, {entry.attempt or "" for entry in of_charges})
    tries = await load_tries(transaction.connection, attempts.values())
    for entry in of_charges:
        attempt = attempts.get(entry.attempt or "")
        if attempt is None or attempt.tenant_id != entry.tenant:
            log.error("entry_of_unknown_attempt", attempt=entry.attempt, tenant=entry.tenant)
            continue
        if entry.payment_intent is None or entry.amount_minor is None or entry.currency is None:
            log.error("entry_without_payment", attempt=entry.attempt, tenant=entry.tenant, reference=entry.reference)
            continue
        is_credited = entry.kind == RECHARGE
        payment = OtherPayment(entry.payment_intent, entry.amount_minor, entry.currency, is_credited)
        changed = after_credit_entry if is_credited else after_receipt_entry
        transition = changed(attempt, tries[attempt.attempt], payment, now)
        [attempts[attempt.attempt]] = await apply_transitions(transaction, [(attempt, transition)], now)
        if transition.tries:
            tries[attempt.attempt] = (*tries[attempt.attempt][:-1], *transition.tries)


async def on_packages(transaction: Transaction, records: Sequence[Record]) -> None:
    """Keeps the catalog. Those for whom no package fitted are decided about again, by the periodic job; a package that
    was refused as it was is tried again."""
    changed = await save_packages(transaction.connection, read(records, CreditPackage))
    await catalog_changed(transaction.connection, transaction.now)
    await forget_packages(transaction.connection, changed)  # last: whoever charges locks its tenant before a breaker


async def on_requests(transaction: Transaction, records: Sequence[Record]) -> None:
    """A tenant asks to be recharged now."""
    requests = read(records, RechargeRequested)
    await lock_tenants(transaction.connection, (request.tenant for request in requests))
    tenants = await save_requests(transaction.connection, requests)
    await decide_tenants(transaction, tenants, transaction.now)


async def on_refused_reversals(transaction: Transaction, records: Sequence[Record]) -> None:
    """The books lack what was taken back at Stripe, so the balance says too much or too little: no charge for its
    tenant until an operator has looked."""
    reversals = read(records, ReversalRefused)
    await lock_tenants(transaction.connection, (refused.tenant for refused in reversals))
    for refused in reversals:
        await freeze_tenant(transaction.connection, refused.tenant, f"reversal refused: {refused.reversal}")
        log.error("tenant_frozen", tenant=refused.tenant, reversal=refused.reversal)


async def freeze_tenant_of_dead_letter(transaction: Transaction, record: Record) -> None:
    """What we could not read may have been a stop: no charge for its tenant until an operator has looked."""
    if record.key:
        await freeze_tenant(transaction.connection, record.key, f"dead letter of {record.topic}")
        log.error("tenant_frozen", tenant=record.key, topic=record.topic)
