"""What each event does, in the order it happens. A batch is one transaction, begun and ended by the consumer loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar, assert_never

from prometheus_client import Counter

from payments.core import purchases as purchase_rules
from payments.core.cards import SavedCard, announce, attach, detach, is_same_for_recharge, next_default
from payments.core.purchases import Progress, observe
from payments.repository import cards, customers, profiles, purchases, read_models
from payments.repository.cards import CardKey
from payments.repository.purchases import Purchase, PurchaseKey
from payments.stripe_events import (
    CardAnnounced,
    CardAttached,
    CardDetached,
    CustomerDeleted,
    CustomerSeen,
    Fact,
    Ignored,
    PurchaseSeen,
    fact_of,
)
from shared.events import AttemptChanged, BalanceChanged, DomainEvent, EntryPosted, UndecodableEvent, decode
from shared.kafka import Record
from shared.logs import get_logger
from shared.outbox import Transaction
from shared.poison import Poison
from shared.stripe_events import MalformedEvent, is_of_own_account, parse_event

log = get_logger()

#: Why recharge gives up a card that Stripe refuses (`recharge.core.refusals`).
GONE_REASONS = frozenset(["card_detached", "customer_gone"])

EventT = TypeVar("EventT", bound=DomainEvent)

_ignored = Counter("payments_events_ignored_total", "Events that changed nothing here, and why.", ["reason"])


@dataclass(slots=True)
class _Known:
    """What the database holds of everything that a batch mentions, as it changes while the batch is folded."""

    now: datetime
    tenants_by_customer: dict[str, str]
    tenants_by_card: dict[str, str]
    detached: set[str]
    defaults: dict[str, str | None]
    purchases: dict[PurchaseKey, Purchase]
    progress: dict[PurchaseKey, Progress]
    cards: dict[CardKey, SavedCard]
    changed_tenants: set[str] = field(default_factory=set[str])
    changed_cards: set[CardKey] = field(default_factory=set[CardKey])
    changed_defaults: set[str] = field(default_factory=set[str])
    repairs: set[str] = field(default_factory=set[str])
    detached_now: set[str] = field(default_factory=set[str])


class StripeEventHandler:
    """`stripe.events`: purchases by their signed metadata, cards and customers by the tenant whose customer it is."""

    def __init__(self, signing_keys: Sequence[str], clock: Callable[[], datetime]) -> None:
        self._signing_keys = signing_keys
        self._clock = clock

    async def handle(self, transaction: Transaction, records: Sequence[Record]) -> None:
        """Applies a batch."""
        facts = [fact for fact in map(self._fact, records) if not isinstance(fact, Ignored)]
        if not facts:
            return
        known = await self._load(transaction, facts)
        for fact in facts:
            _apply(known, fact)
        await _write(transaction, known)

    def _fact(self, record: Record) -> Fact:
        try:
            event = parse_event(record.value or b"")
            fact = fact_of(event, self._signing_keys) if is_of_own_account(event) else Ignored("other_account")
        except MalformedEvent as error:
            raise Poison(str(error)) from error
        if isinstance(fact, Ignored):
            _ignored.labels(fact.reason).inc()
        return fact

    async def _load(self, transaction: Transaction, facts: Sequence[Fact]) -> _Known:
        """Locks first, in the order of `payments.repository`, then reads in later statements."""
        connection = transaction.connection
        payment_methods = {
            fact.payment_method for fact in facts if isinstance(fact, (CardAttached, CardDetached, CardAnnounced))
        }
        mentioned = {
            fact.customer
            for fact in facts
            if isinstance(fact, (CardAttached, CardAnnounced, CustomerSeen, CustomerDeleted))
        }
        purchase_keys = {(fact.tenant, fact.purchase_id) for fact in facts if isinstance(fact, PurchaseSeen)}
        detached = await cards.lock(connection, payment_methods)
        tenants_by_customer = await customers.tenants_of(connection, mentioned)
        tenants_by_card = await cards.tenants_of(connection, payment_methods)
        known_purchases = await purchases.load(connection, purchase_keys)
        tenants = {tenant for tenant, _ in known_purchases}
        tenants |= {*tenants_by_customer.values(), *tenants_by_card.values()}
        defaults = await profiles.lock(connection, tenants) if tenants else {}
        # Again, now that nobody can let go of a customer; one that only just came to be has no events yet.
        current = await customers.tenants_of(connection, mentioned)
        tenants_by_customer = {each: tenant for each, tenant in current.items() if tenant in defaults}

        deleted = {fact.customer for fact in facts if isinstance(fact, CustomerDeleted)}
        left = await customers.forget(connection, deleted) if deleted else []
        for payment_method in payment_methods - tenants_by_card.keys():
            for fact in facts:
                if isinstance(fact, (CardAttached, CardAnnounced)) and fact.payment_method == payment_method:
                    owner = tenants_by_customer.get(fact.customer)
                    if owner is not None:
                        tenants_by_card[payment_method] = owner
        known_cards = await cards.load(connection, {(tenant, card) for card, tenant in tenants_by_card.items()})
        known_cards |= await cards.load_attached(connection, left) if left else {}
        locked_purchases = await purchases.load(connection, known_purchases)
        return _Known(
            now=self._clock(),
            tenants_by_customer=tenants_by_customer,
            tenants_by_card=tenants_by_card,
            detached=detached,
            defaults=defaults,
            purchases=locked_purchases,
            progress={key: each.progress for key, each in locked_purchases.items()},
            cards=known_cards,
            changed_tenants=set(left),
        )


def _apply(known: _Known, fact: Fact) -> None:
    match fact:
        case PurchaseSeen():
            _apply_to_purchase(known, fact)
        case CardAttached():
            tenant = known.tenants_by_customer.get(fact.customer)
            if tenant is None:
                _ignored.labels("unknown_customer").inc()
                return
            before = known.cards.get((tenant, fact.payment_method))
            after = attach(before, fact.payment_method, fact.details, created=fact.created, now=known.now)
            _put(known, tenant, before, after)
        case CardAnnounced():
            tenant = known.tenants_by_customer.get(fact.customer)
            if tenant is None:
                _ignored.labels("unknown_customer").inc()
                return
            before = known.cards.get((tenant, fact.payment_method))
            _put(known, tenant, before, announce(before, fact.payment_method, now=known.now))
        case CardDetached():
            known.detached_now.add(fact.payment_method)
            known.detached.add(fact.payment_method)
            tenant = known.tenants_by_card.get(fact.payment_method)
            card = known.cards.get((tenant, fact.payment_method)) if tenant is not None else None
            if tenant is not None and card is not None:
                _put(known, tenant, card, detach(card))
        case CustomerSeen():
            tenant = known.tenants_by_customer.get(fact.customer)
            if tenant is not None and known.defaults[tenant] != fact.default_payment_method:
                known.repairs.add(tenant)
        case CustomerDeleted():
            # What comes after it is of a customer that nobody has any more, also in the same batch.
            tenant = known.tenants_by_customer.pop(fact.customer, None)
            for (owner, _), card in list(known.cards.items()):
                if owner == tenant:
                    _put(known, owner, card, detach(card))
        case Ignored():
            pass
        case _:
            assert_never(fact)


def _apply_to_purchase(known: _Known, fact: PurchaseSeen) -> None:
    key = (fact.tenant, fact.purchase_id)
    purchase = known.purchases.get(key)
    if purchase is None:
        _ignored.labels("unknown_purchase").inc()
        return
    before = known.progress[key]
    after = observe(before, fact.observation, opened_at=purchase.created_at, now=known.now)
    if not purchase_rules.is_same_for_recharge(before, after):
        known.changed_tenants.add(fact.tenant)
    known.progress[key] = after
    log.debug("purchase_seen", tenant=fact.tenant, purchase=fact.purchase_id, state=after.state)


def _put(known: _Known, tenant: str, before: SavedCard | None, after: SavedCard) -> None:
    if after.payment_method in known.detached:
        after = detach(after)
    if after == before:
        return
    key = (tenant, after.payment_method)
    known.cards[key] = after
    known.changed_cards.add(key)
    default = next_default(known.defaults[tenant], before, after)
    if default != known.defaults[tenant]:
        known.defaults[tenant] = default
        known.changed_defaults.add(tenant)
        known.changed_tenants.add(tenant)
    if not is_same_for_recharge(before, after):
        known.changed_tenants.add(tenant)


async def _write(transaction: Transaction, known: _Known) -> None:
    connection = transaction.connection
    await purchases.save_progress(
        connection, {key: each for key, each in known.progress.items() if each != known.purchases[key].progress}
    )
    await cards.save(connection, {key: known.cards[key] for key in known.changed_cards})
    await cards.note_detached(connection, known.detached_now, known.now)
    await profiles.set_defaults(
        connection, {tenant: known.defaults[tenant] for tenant in sorted(known.changed_defaults)}, known.now
    )
    if known.repairs:
        await profiles.request_default_repair(connection, known.repairs, known.now)
    await profiles.changed(transaction, known.changed_tenants)


async def handle_entries(transaction: Transaction, records: Sequence[Record]) -> None:
    """`ledger.entry-posted`: the entries of a tenant's history. A purchase stays open to recharge until it is here."""
    credited = await read_models.save_entries(transaction.connection, _decoded(records, EntryPosted))
    await profiles.changed(transaction, credited)


async def handle_balances(transaction: Transaction, records: Sequence[Record]) -> None:
    """`ledger.balance-changed`: the newest version of each balance."""
    await read_models.save_balances(transaction.connection, _decoded(records, BalanceChanged))


async def handle_attempts(transaction: Transaction, records: Sequence[Record]) -> None:
    """`recharge.attempt-changed`: the newest version of each attempt. Where recharge met a card that cannot be charged,
    Stripe is asked what it still has of its tenant."""
    attempts = _decoded(records, AttemptChanged)
    tenants = {attempt.tenant for attempt in attempts if attempt.reason in GONE_REASONS}
    if tenants:
        await profiles.lock(transaction.connection, tenants)
        await cards.look_at_attached(transaction.connection, tenants, transaction.now)
    await read_models.save_attempts(transaction.connection, attempts)


def _decoded(records: Sequence[Record], kind: type[EventT]) -> list[EventT]:
    """The events; a tombstone or an event of a newer type is counted and left out."""
    events: list[EventT] = []
    for record in records:
        if record.value is None:
            continue
        try:
            event = decode(record.value, kind)
        except UndecodableEvent as error:
            raise Poison(str(error)) from error
        if event is None:
            _ignored.labels("newer_type").inc()
        else:
            events.append(event)
    return events
