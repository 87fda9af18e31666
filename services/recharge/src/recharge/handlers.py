"""What each event does, in its batch's transaction: keep the newest input, change attempts, decide again."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from prometheus_client import Counter

from recharge.core.cards import CardEvidence
from recharge.core.disputes import DisputeSeen, unreadable_dispute
from recharge.core.ledger_entries import after_entry, is_of_charge, payment_of
from recharge.core.payment_intent import after_event
from recharge.core.proof import NamedPaymentIntent, is_believable
from recharge.core.transitions import with_changed
from recharge.repository.attempts import load_attempts, load_tries, tenants_of
from recharge.repository.balances import save_balances, save_entries
from recharge.repository.breakers import forget_packages
from recharge.repository.cards import save_card_evidence
from recharge.repository.decisions import decide_again_about_packages
from recharge.repository.disputes import save_disputes
from recharge.repository.locks import lock_tenants
from recharge.repository.packages import save_packages
from recharge.repository.profiles import freeze_customer, freeze_tenant, save_profiles, tenants_of_customers
from recharge.repository.requests import save_requests
from recharge.stripe_events import IrrelevantEvent, translate
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
from shared.stripe_events import MalformedEvent

log = get_logger()

_ignored = Counter("recharge_stripe_events_ignored_total", "Stripe's events that change nothing here.", ["type"])

EventT = TypeVar("EventT", bound=DomainEvent)


def read(records: Sequence[Record], kind: type[EventT]) -> list[EventT]:
    """The events of the records. Unknown types are left out; bytes that cannot be read are poison."""
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
    """Keeps the newest balances and decides about their tenants. This is how a debit leads to a charge."""
    tenants = await save_balances(transaction.connection, read(records, BalanceChanged))
    await decide_tenants(transaction, tenants, transaction.now)


async def on_entries(transaction: Transaction, records: Sequence[Record]) -> None:
    """Ends the attempts whose credits have been posted; marks those whose receipt could not be applied."""
    now = transaction.now
    entries = read(records, EntryPosted)
    await save_entries(transaction.connection, entries)
    await _change_attempts_by_entries(transaction, [entry for entry in entries if is_of_charge(entry)], now)
    await decide_tenants(transaction, {entry.tenant for entry in entries}, now)


async def _change_attempts_by_entries(transaction: Transaction, entries: Sequence[EntryPosted], now: datetime) -> None:
    """One entry after the other: several may name one attempt, for different PaymentIntents."""
    if not entries:
        return
    attempts = await load_attempts(transaction.connection, {entry.attempt or "" for entry in entries})
    tries = await load_tries(transaction.connection, attempts.values())
    for entry in entries:
        attempt = attempts.get(entry.attempt or "")
        if attempt is None or attempt.tenant_id != entry.tenant:
            log.error("entry_of_unknown_attempt", attempt=entry.attempt, tenant=entry.tenant)
            continue
        payment = payment_of(entry)
        if payment is None:
            log.error("entry_without_payment", attempt=entry.attempt, tenant=entry.tenant, reference=entry.reference)
            continue
        name = attempt.attempt
        transition = after_entry(attempt, tries[name], payment, now)
        [attempts[name]] = await apply_transitions(transaction, [(attempt, transition)], now)
        tries[name] = with_changed(tries[name], transition.tries)


async def on_packages(transaction: Transaction, records: Sequence[Record]) -> None:
    """Keeps the catalog. The periodic job decides again about tenants for whom no package fitted. A package that was
    refused in its old version is tried again."""
    changed = await save_packages(transaction.connection, read(records, CreditPackage))
    await decide_again_about_packages(transaction.connection, transaction.now)
    await forget_packages(transaction.connection, changed)  # last: a charge locks its tenant before a breaker


async def on_requests(transaction: Transaction, records: Sequence[Record]) -> None:
    """A tenant asks to be recharged now."""
    requests = read(records, RechargeRequested)
    await lock_tenants(transaction.connection, (request.tenant for request in requests))
    tenants = await save_requests(transaction.connection, requests)
    await decide_tenants(transaction, tenants, transaction.now)


async def on_refused_reversals(transaction: Transaction, records: Sequence[Record]) -> None:
    """The ledger has not posted what was taken back at Stripe, so the balance is wrong: its tenant is not charged until
    an operator has looked."""
    reversals = read(records, ReversalRefused)
    await lock_tenants(transaction.connection, (refused.tenant for refused in reversals))
    for refused in reversals:
        await freeze_tenant(transaction.connection, refused.tenant, f"reversal refused: {refused.reversal}")
        log.error("tenant_frozen", tenant=refused.tenant, reversal=refused.reversal)


class StripeEventHandler:
    """Handles `stripe.events`: changes the attempts that PaymentIntents name, and keeps disputes and evidence about
    cards.

    `signing_keys` verify which attempt a PaymentIntent belongs to (`core.proof.is_believable`).
    """

    def __init__(self, signing_keys: Sequence[str]) -> None:
        self._signing_keys = signing_keys

    async def handle(self, transaction: Transaction, records: Sequence[Record]) -> None:
        """Handles a batch."""
        intents: list[NamedPaymentIntent] = []
        disputes: list[DisputeSeen] = []
        evidence: list[CardEvidence] = []
        for record in records:
            try:
                fact = translate(record.value or b"", self._signing_keys)
            except MalformedEvent as error:
                raise Poison(str(error)) from error
            match fact:
                case NamedPaymentIntent():
                    intents.append(fact)
                case DisputeSeen():
                    disputes.append(fact)
                case CardEvidence():
                    evidence.append(fact)
                case IrrelevantEvent(kind):
                    _ignored.labels(kind).inc()
                case None:
                    pass
        connection, now = transaction.connection, transaction.now
        disputed = await save_disputes(connection, disputes) if disputes else []
        buyers = await tenants_of_customers(connection, (each.customer for each in evidence)) if evidence else []
        payers = await tenants_of(connection, (each.attempt for each in intents))
        await lock_tenants(connection, [*disputed, *buyers, *payers])
        proven = await save_card_evidence(connection, evidence)
        ended = await _change_attempts_by_events(transaction, intents, now)
        await decide_tenants(transaction, [*disputed, *proven, *ended], now)


async def _change_attempts_by_events(
    transaction: Transaction, intents: Sequence[NamedPaymentIntent], now: datetime
) -> set[str]:
    """Returns the tenants whose attempts have ended."""
    if not intents:
        return set()
    connection = transaction.connection
    attempts = await load_attempts(connection, {each.attempt for each in intents})
    tries = await load_tries(connection, attempts.values())
    ended: set[str] = set()
    for each in intents:
        attempt = attempts.get(each.attempt)
        if attempt is None:
            log.error("event_of_unknown_attempt", attempt=each.attempt, payment_intent=each.view.id)
            continue
        if not is_believable(attempt, each):
            log.error("event_with_wrong_signature", attempt=each.attempt, payment_intent=each.view.id)
            continue
        name = attempt.attempt
        transition = after_event(attempt, tries[name], each.view, now)
        [after] = await apply_transitions(transaction, [(attempt, transition)], now)
        attempts[name] = after
        tries[name] = with_changed(tries[name], transition.tries)
        if after.has_ended and not attempt.has_ended:
            ended.add(attempt.tenant_id)
    return ended


async def freeze_tenant_of_dead_letter(transaction: Transaction, record: Record) -> None:
    """An event that could not be read may have stopped recharge: its tenant is not charged until an operator has
    looked."""
    if record.key:
        await freeze_tenant(transaction.connection, record.key, f"dead letter of {record.topic}")
        log.error("tenant_frozen", tenant=record.key, topic=record.topic)


async def freeze_payer_of_dead_letter(transaction: Transaction, record: Record) -> None:
    """An event of Stripe's that could not be read may have been a dispute: whoever paid this is not charged until an
    operator has looked."""
    reason = f"dead letter of {record.topic}"
    if not record.key:
        return
    if not record.key.startswith("pi_"):
        await freeze_customer(transaction.connection, record.key, reason)
        return
    name = f"{record.topic}:{record.partition}:{record.offset}"
    dispute = unreadable_dispute(record.key, name, transaction.now)
    for tenant in await save_disputes(transaction.connection, [dispute]):
        await freeze_tenant(transaction.connection, tenant, reason)
