"""One batch of commands, in one transaction: lock, read, plan, write, publish.

The API, the consumer and the jobs all change the books through `apply_commands`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from prometheus_client import Counter

from ledger.core.accounts import DEBIT_KINDS, Namespace
from ledger.core.commands import Command, Credit, DisputeSeen, Outcome, RefundSeen, UnappliedReceipt
from ledger.core.plan import plan, posts_all
from ledger.core.state import Changes, PaymentIntent, RefusedReversal, State, Transfer
from ledger.core.touched import DebitCommand, are_debits, tenants_of_debits, touched_by
from ledger.repository.batch import Batch, ReferenceTaken, begin_batch
from shared.events import EntryPosted, ReversalRefused
from shared.logs import get_logger
from shared.outbox import Transaction
from shared.topics import TopicName

log = get_logger()

_refused_reversals = Counter(
    "ledger_refused_reversals_total", "Refunds and disputes that do not fit what was credited, by why.", ["reason"]
)
_refused_reversals.labels("currency_differs")


async def apply_commands(transaction: Transaction, commands: Sequence[Command], now: datetime) -> Sequence[Outcome]:
    """Applies the commands and returns an outcome for each. Their events are published once the transaction commits."""
    async with begin_batch(transaction.connection) as batch:
        changes = await _apply_optimistically(batch, commands, now) if are_debits(commands) else None
        if changes is None:
            changes = plan(await _lock_and_read(batch, commands, now), commands, now)
            await _write(batch, changes, now)
    _publish(transaction, changes, now)
    return changes.outcomes


async def _apply_optimistically(batch: Batch, commands: Sequence[DebitCommand], now: datetime) -> Changes | None:
    """Applies debits without looking their references up first, since nearly all are new.

    Where the plan refuses a debit, references are read and the batch is planned again: a debit that was posted before
    is answered with its first result. Where a reference turns out to be taken as its transfer is written, the savepoint
    is rolled back and None is returned.
    """
    try:
        async with batch.savepoint():
            state = await _lock_and_read_tenants(batch, tenants_of_debits(commands), now)
            changes = plan(state, commands, now)
            if not posts_all(changes.outcomes):
                references = await batch.read_references(touched_by(commands).references)
                changes = plan(replace(state, references=references), commands, now)
            await _write(batch, changes, now)
            return changes
    except ReferenceTaken:
        return None


async def _lock_and_read(batch: Batch, commands: Sequence[Command], now: datetime) -> State:
    ids = sorted({each.payment_intent for each in commands if isinstance(each, _OF_PAYMENT_INTENT)})
    intents = await batch.lock_payment_intents(ids, now) if ids else {}
    credited = sorted({each.tenant for each in commands if isinstance(each, Credit)})
    opened = await batch.open_balances(credited, now) if credited else set[str]()
    touched = touched_by(commands)
    tenants = touched.tenants | {each.credit.tenant for each in intents.values() if each.credit}
    if not tenants:
        return State(payment_intents=intents)
    grants = {(each.credit.tenant, each.credit.grant_number) for each in intents.values() if each.credit}
    state = await _lock_and_read_tenants(batch, tenants, now, touched.holds, grants)
    # As if the commands came one by one: a tenant without balance is unknown until its credit.
    known = {name: balance for name, balance in state.balances.items() if name not in opened}
    orders = [order for each in commands if isinstance(each, Credit) for order in each.orders]
    credited_to = await batch.read_orders(orders) if orders else {}
    references = await batch.read_references(touched.references)
    return replace(state, balances=known, references=references, payment_intents=intents, orders=credited_to)


async def _lock_and_read_tenants(
    batch: Batch,
    tenants: Iterable[str],
    now: datetime,
    named_holds: Iterable[tuple[str, str]] = (),
    named_grants: Iterable[tuple[str, int]] = (),
) -> State:
    """Balances, and the holds and grants that are open, due or named."""
    in_order = sorted(tenants)
    balances = await batch.lock_balances(in_order)
    with_holds = [tenant for tenant, balance in balances.items() if balance.held]
    named = sorted(named_holds)
    holds = await batch.read_holds(with_holds, named, now) if with_holds or named else {}
    of_holds = {(tenant, number) for tenant, each in holds.items() for hold in each for number in hold.grant_numbers}
    in_debt = [tenant for tenant, balance in balances.items() if balance.receivable]
    grants = await batch.read_grants(in_order, sorted(of_holds.union(named_grants)), in_debt)
    return State(balances, grants, holds=holds)


async def _write(batch: Batch, changes: Changes, now: datetime) -> None:
    if changes.runs:
        await batch.insert_runs(changes.runs)
    if changes.transfers:
        await batch.insert_transfers(changes.transfers)
    if changes.balances:
        await batch.update_balances(changes.balances)
    if changes.new_grants:
        await batch.insert_grants(changes.new_grants)
    if changes.changed_grants:
        await batch.update_grants(changes.changed_grants)
    if changes.new_holds:
        await batch.insert_holds(changes.new_holds)
    if changes.ended_holds:
        await batch.end_holds(changes.ended_holds)
    if changes.payment_intents:
        await batch.update_payment_intents(changes.payment_intents)
    if changes.receipts:
        await batch.insert_receipts(changes.receipts, now)
    if changes.resolved_receipts:
        await batch.resolve_receipts(changes.resolved_receipts, now)


def _publish(transaction: Transaction, changes: Changes, now: datetime) -> None:
    for balance in changes.balances:
        transaction.mark(TopicName.BALANCE_CHANGED, balance.tenant, balance.version, tenant=balance.tenant)
    for transfer in changes.transfers:
        if transfer.kind not in DEBIT_KINDS:
            transaction.publish(_entry_posted(transfer))
    for receipt in changes.receipts:
        if receipt.purchase or receipt.attempt:
            transaction.publish(_receipt_posted(receipt, now))
    for intent, refused in changes.refused_reversals:
        _refused_reversals.labels("currency_differs").inc()
        transaction.publish(_reversal_refused(intent, refused, now))


def _entry_posted(transfer: Transfer) -> EntryPosted:
    return EntryPosted(
        tenant=transfer.tenant,
        reference=transfer.reference,
        door=transfer.namespace.value,
        kind=transfer.kind,
        credits=transfer.balance_change,
        amount_minor=transfer.amount_minor,
        currency=transfer.currency,
        payment_intent=transfer.payment_intent,
        purchase=transfer.purchase,
        attempt=transfer.attempt,
        balance_version=transfer.version,
        posted_at=transfer.created_at,
    )


def _receipt_posted(receipt: UnappliedReceipt, now: datetime) -> EntryPosted:
    """Tells who initiated the payment that it arrived and bought nothing. Its reference differs from that of a
    credit."""
    return EntryPosted(
        tenant=receipt.claimed_tenant,
        reference=f"{receipt.payment_intent}:unapplied",
        door=Namespace.STRIPE.value,
        kind="unapplied_receipt",
        credits=0,
        amount_minor=receipt.amount_minor,
        currency=receipt.currency,
        payment_intent=receipt.payment_intent,
        purchase=receipt.purchase,
        attempt=receipt.attempt,
        balance_version=0,
        posted_at=now,
    )


def _reversal_refused(intent: PaymentIntent, refused: RefusedReversal, now: datetime) -> ReversalRefused:
    assert intent.credit is not None, "a reversal is refused for its credit's currency"
    log.error(
        "reversal_refused", tenant=intent.credit.tenant, payment_intent=intent.id, reversal=refused.reference,
        currency=refused.currency, credited=intent.credit.currency,
    )  # fmt: skip
    return ReversalRefused(
        tenant=intent.credit.tenant,
        payment_intent=intent.id,
        reversal=refused.reference,
        amount_minor=refused.amount_minor,
        currency=refused.currency,
        credited_currency=intent.credit.currency,
        refused_at=now,
    )


_OF_PAYMENT_INTENT = (Credit, UnappliedReceipt, RefundSeen, DisputeSeen)
