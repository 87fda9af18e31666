"""What each event does. The consumer loop begins and ends the transaction of a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar, assert_never

from payments.core.cards import (
    REASONS_TO_RETRIEVE_CARDS,
    SavedCard,
    attach,
    card_changes_profile,
    detach,
    next_default,
    set_up,
)
from payments.core.purchases import Progress, apply_observation, progress_changes_profile
from payments.metrics import events_ignored
from payments.repository import cards, customers, profiles, purchases, read_models
from payments.repository.cards import CardKey
from payments.repository.purchases import Purchase, PurchaseKey
from payments.stripe_events import (
    CardAttached,
    CardDetached,
    CustomerDeleted,
    CustomerUpdated,
    Fact,
    Ignored,
    PurchaseObserved,
    SetupSucceeded,
    fact_from_event,
)
from shared.events import AttemptChanged, BalanceChanged, DomainEvent, EntryPosted, UndecodableEvent, decode
from shared.kafka import Record
from shared.logs import get_logger
from shared.outbox import Transaction
from shared.poison import Poison
from shared.stripe_events import MalformedEvent, is_of_own_account, parse_event

log = get_logger()

EventT = TypeVar("EventT", bound=DomainEvent)


@dataclass(slots=True)
class _BatchState:
    """The rows that a batch mentions. Facts change them in memory, in order; then the changed ones are written.

    `detached`: payment methods that are detached, also before this batch. `repairs`: tenants whose default card at
    Stripe has to be compared with ours.
    """

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
    """`stripe.events`. The signed metadata names the purchase; the Stripe customer says whose a card is."""

    def __init__(self, signing_keys: Sequence[str], clock: Callable[[], datetime]) -> None:
        self._signing_keys = signing_keys
        self._clock = clock

    async def handle(self, transaction: Transaction, records: Sequence[Record]) -> None:
        """Applies the events of a batch."""
        facts = [fact for fact in map(self._fact, records) if not isinstance(fact, Ignored)]
        if not facts:
            return
        batch = await self._load(transaction, facts)
        for fact in facts:
            _apply_fact(batch, fact)
        await _write(transaction, batch)

    def _fact(self, record: Record) -> Fact:
        try:
            event = parse_event(record.value or b"")
            fact = fact_from_event(event, self._signing_keys) if is_of_own_account(event) else Ignored("other_account")
        except MalformedEvent as error:
            raise Poison(str(error)) from error
        if isinstance(fact, Ignored):
            events_ignored.labels(fact.reason).inc()
        return fact

    async def _load(self, transaction: Transaction, facts: Sequence[Fact]) -> _BatchState:
        """Locks in the order that `payments.repository` documents, and reads only afterwards."""
        connection = transaction.connection
        payment_methods = {
            fact.payment_method for fact in facts if isinstance(fact, (CardAttached, CardDetached, SetupSucceeded))
        }
        mentioned = {
            fact.customer
            for fact in facts
            if isinstance(fact, (CardAttached, SetupSucceeded, CustomerUpdated, CustomerDeleted))
        }
        purchase_keys = {(fact.tenant, fact.purchase_id) for fact in facts if isinstance(fact, PurchaseObserved)}
        detached = await cards.lock(connection, payment_methods)
        tenants_by_customer = await customers.tenants_of(connection, mentioned)
        tenants_by_card = await cards.tenants_of(connection, payment_methods)
        known_purchases = await purchases.load(connection, purchase_keys)
        tenants = {tenant for tenant, _ in known_purchases}
        tenants |= {*tenants_by_customer.values(), *tenants_by_card.values()}
        defaults = await profiles.lock(connection, tenants) if tenants else {}
        # Again: from now on the locked profiles keep their customers. One recorded in between has no events yet.
        current = await customers.tenants_of(connection, mentioned)
        tenants_by_customer = {each: tenant for each, tenant in current.items() if tenant in defaults}

        deleted = {fact.customer for fact in facts if isinstance(fact, CustomerDeleted)}
        tenants_without_customer = await customers.unlink(connection, deleted) if deleted else []
        for payment_method in payment_methods - tenants_by_card.keys():
            for fact in facts:
                if isinstance(fact, (CardAttached, SetupSucceeded)) and fact.payment_method == payment_method:
                    owner = tenants_by_customer.get(fact.customer)
                    if owner is not None:
                        tenants_by_card[payment_method] = owner
        known_cards = await cards.load(connection, {(tenant, card) for card, tenant in tenants_by_card.items()})
        known_cards |= (
            await cards.load_attached(connection, tenants_without_customer) if tenants_without_customer else {}
        )
        locked_purchases = await purchases.load(connection, known_purchases)
        return _BatchState(
            now=self._clock(),
            tenants_by_customer=tenants_by_customer,
            tenants_by_card=tenants_by_card,
            detached=detached,
            defaults=defaults,
            purchases=locked_purchases,
            progress={key: each.progress for key, each in locked_purchases.items()},
            cards=known_cards,
            changed_tenants=set(tenants_without_customer),
        )


def _apply_fact(batch: _BatchState, fact: Fact) -> None:
    match fact:
        case PurchaseObserved():
            _observe_purchase(batch, fact)
        case CardAttached():
            tenant = batch.tenants_by_customer.get(fact.customer)
            if tenant is None:
                events_ignored.labels("unknown_customer").inc()
                return
            before = batch.cards.get((tenant, fact.payment_method))
            after = attach(before, fact.payment_method, fact.details, created=fact.created, now=batch.now)
            _change_card(batch, tenant, before, after)
        case SetupSucceeded():
            tenant = batch.tenants_by_customer.get(fact.customer)
            if tenant is None:
                events_ignored.labels("unknown_customer").inc()
                return
            before = batch.cards.get((tenant, fact.payment_method))
            _change_card(batch, tenant, before, set_up(before, fact.payment_method, now=batch.now))
        case CardDetached():
            batch.detached_now.add(fact.payment_method)
            batch.detached.add(fact.payment_method)
            tenant = batch.tenants_by_card.get(fact.payment_method)
            card = batch.cards.get((tenant, fact.payment_method)) if tenant is not None else None
            if tenant is not None and card is not None:
                _change_card(batch, tenant, card, detach(card))
        case CustomerUpdated():
            tenant = batch.tenants_by_customer.get(fact.customer)
            if tenant is not None and batch.defaults[tenant] != fact.default_payment_method:
                batch.repairs.add(tenant)
        case CustomerDeleted():
            # Later events about the customer, also in this batch, are of no tenant.
            tenant = batch.tenants_by_customer.pop(fact.customer, None)
            for (owner, _), card in list(batch.cards.items()):
                if owner == tenant:
                    _change_card(batch, owner, card, detach(card))
        case Ignored():
            pass
        case _:
            assert_never(fact)


def _observe_purchase(batch: _BatchState, fact: PurchaseObserved) -> None:
    key = (fact.tenant, fact.purchase_id)
    purchase = batch.purchases.get(key)
    if purchase is None:
        events_ignored.labels("unknown_purchase").inc()
        return
    before = batch.progress[key]
    after = apply_observation(before, fact.observation, opened_at=purchase.created_at, now=batch.now)
    if progress_changes_profile(before, after):
        batch.changed_tenants.add(fact.tenant)
    batch.progress[key] = after
    log.debug("purchase_seen", tenant=fact.tenant, purchase=fact.purchase_id, state=after.state)


def _change_card(batch: _BatchState, tenant: str, before: SavedCard | None, after: SavedCard) -> None:
    if after.payment_method in batch.detached:
        after = detach(after)
    if after == before:
        return
    key = (tenant, after.payment_method)
    batch.cards[key] = after
    batch.changed_cards.add(key)
    default = next_default(batch.defaults[tenant], before, after)
    if default != batch.defaults[tenant]:
        batch.defaults[tenant] = default
        batch.changed_defaults.add(tenant)
        batch.changed_tenants.add(tenant)
    if card_changes_profile(before, after):
        batch.changed_tenants.add(tenant)


async def _write(transaction: Transaction, batch: _BatchState) -> None:
    connection = transaction.connection
    await purchases.save_progress(
        connection, {key: each for key, each in batch.progress.items() if each != batch.purchases[key].progress}
    )
    await cards.save(connection, {key: batch.cards[key] for key in batch.changed_cards})
    await cards.mark_detached(connection, batch.detached_now, batch.now)
    await profiles.set_defaults(
        connection, {tenant: batch.defaults[tenant] for tenant in sorted(batch.changed_defaults)}, batch.now
    )
    if batch.repairs:
        await profiles.request_default_repair(connection, batch.repairs, batch.now)
    await profiles.increment_versions(transaction, batch.changed_tenants)


async def handle_entries(transaction: Transaction, records: Sequence[Record]) -> None:
    """`ledger.entry-posted`: stores entries. A paid purchase stays in the profile until its entry is stored."""
    credited = await read_models.save_entries(transaction.connection, _decoded(records, EntryPosted))
    await profiles.increment_versions(transaction, credited)


async def handle_balances(transaction: Transaction, records: Sequence[Record]) -> None:
    """`ledger.balance-changed`: keeps the newest version of each balance."""
    await read_models.save_balances(transaction.connection, _decoded(records, BalanceChanged))


async def handle_attempts(transaction: Transaction, records: Sequence[Record]) -> None:
    """`recharge.attempt-changed`: keeps the newest version of each attempt.

    Where recharge learned that Stripe does not have a card or its customer, the sweeper retrieves the tenant's cards.
    """
    attempts = _decoded(records, AttemptChanged)
    tenants = {attempt.tenant for attempt in attempts if attempt.reason in REASONS_TO_RETRIEVE_CARDS}
    if tenants:
        await profiles.lock(transaction.connection, tenants)
        await cards.schedule_retrieval_of_attached(transaction.connection, tenants, transaction.now)
    await read_models.save_attempts(transaction.connection, attempts)


def _decoded(records: Sequence[Record], kind: type[EventT]) -> list[EventT]:
    """The events. Tombstones are left out; events of a newer type are counted and left out."""
    events: list[EventT] = []
    for record in records:
        if record.value is None:
            continue
        try:
            event = decode(record.value, kind)
        except UndecodableEvent as error:
            raise Poison(str(error)) from error
        if event is None:
            events_ignored.labels("newer_type").inc()
        else:
            events.append(event)
    return events
