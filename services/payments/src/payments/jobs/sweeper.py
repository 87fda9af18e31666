"""Finishes what requests and events left unfinished. Never starts a charge."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.contextvars import bound_contextvars

from payments.core.cards import CardState, apply_retrieval, next_default
from payments.core.purchases import Source, Step, next_step
from payments.repository import cards, idempotency, profiles, purchases
from payments.repository.cards import DueCard
from payments.repository.profiles import DefaultRepair
from payments.repository.purchases import Purchase
from payments.stripe_events import card_details
from payments.stripe_gateway import StripeProblem, StripeRefused
from payments.workflows.context import WorkflowContext
from payments.workflows.missing_at_stripe import record_missing
from payments.workflows.purchase_progress import (
    cancel_never_created,
    cancel_unknown_to_stripe,
    create_payment_intent,
    find_payment_intent,
    record_observation,
)
from payments.workflows.saved_cards import detach_at_stripe, record_detached
from shared.faults import fault_point
from shared.logs import get_logger
from shared.process import Job

log = get_logger()

RowT = TypeVar("RowT", Purchase, DueCard, DefaultRepair)
#: Claims rows that are due at a time, at most so many.
Claim = Callable[[AsyncConnection, datetime, int], Awaitable[Sequence[RowT]]]

#: Rows processed concurrently: a fair share of Stripe's 25 requests a second in test mode.
ROWS_AT_ONCE = 10
#: A run claims rows at most so often; the next run claims the rest.
ROUNDS_MAX = 10
PURCHASES_EVERY_S = 5.0
CARDS_EVERY_S = 1.0
DEFAULTS_EVERY_S = 2.0
DELETE_EVERY_S = 3_600.0


class Sweeper:
    """Any number of workers may run it: each claims rows and skips locked ones."""

    def __init__(self, context: WorkflowContext) -> None:
        self._context = context

    def jobs(self) -> tuple[Job, ...]:
        """For `run_worker`."""
        return (
            Job("sweep_purchases", self.sweep_purchases, every_s=PURCHASES_EVERY_S),
            Job("sweep_cards", self.sweep_cards, every_s=CARDS_EVERY_S),
            Job("repair_defaults", self.repair_defaults, every_s=DEFAULTS_EVERY_S),
            Job("forget_old_rows", self.delete_old_rows, every_s=DELETE_EVERY_S),
        )

    async def sweep_purchases(self) -> None:
        """Creates again, retrieves or cancels the purchases that are due, and cancels those that block a recharge."""
        await self._process_due(purchases.claim_blocking_recharge, self._advance_purchase)
        await self._process_due(purchases.claim_due, self._advance_purchase)

    async def sweep_cards(self) -> None:
        """Detaches removed cards, and retrieves those of which the events do not say enough."""
        await self._process_due(cards.claim_due, self._check_card)

    async def repair_defaults(self) -> None:
        """Sets the default cards at Stripe to those of our profiles."""
        await self._process_due(profiles.claim_default_repairs, self._repair_default)

    async def delete_old_rows(self) -> None:
        """Deletes idempotency keys and locks that are too old to be needed."""
        async with self._context.engine.begin() as connection:
            await idempotency.delete_old(connection, self._context.clock())
            await cards.delete_old_locks(connection, self._context.clock())

    async def _process_due(self, claim: Claim[RowT], process: Callable[[RowT], Awaitable[None]]) -> None:
        for _ in range(ROUNDS_MAX):
            async with self._context.engine.begin() as connection:
                due = await claim(connection, self._context.clock(), ROWS_AT_ONCE)
            done = await asyncio.gather(
                *(self._tolerate_stripe_errors(row, process) for row in due), return_exceptions=True
            )
            for failure in filter(None, done):
                raise failure
            if len(due) < ROWS_AT_ONCE:
                return

    async def _tolerate_stripe_errors(self, row: RowT, process: Callable[[RowT], Awaitable[None]]) -> None:
        """Processes one row. A Stripe error is logged; the row is due again when its claim ends."""
        try:
            with bound_contextvars(tenant=row.tenant):
                await process(row)
        except StripeProblem as problem:
            log.warning("left_for_later", problem=problem.label, reason=str(problem)[:300])

    async def _advance_purchase(self, purchase: Purchase) -> None:
        step = next_step(
            purchase.progress,
            opened_at=purchase.created_at,
            state_since=purchase.state_since,
            blocks_recharge=purchase.blocks_recharge,
            now=self._context.clock(),
        )
        log.info("purchase_swept", purchase=purchase.purchase_id, step=step)
        match step:
            case Step.CREATE_AGAIN:
                await self._create_again(purchase)
            case Step.FIND:
                found = await find_payment_intent(self._context.stripe, purchase)
                if found is None:
                    await cancel_never_created(self._context, purchase)
                else:
                    await record_observation(self._context, purchase, found, Source.RETRIEVED)
            case Step.CANCEL:
                await self._cancel(purchase)
            case Step.RETRIEVE:
                payment_intent = purchase.progress.payment_intent
                assert payment_intent is not None, "only what has a PaymentIntent is retrieved"
                await self._retrieve(purchase, payment_intent)

    async def _create_again(self, purchase: Purchase) -> None:
        try:
            view = await create_payment_intent(self._context, purchase)
        except StripeRefused as refused:
            log.warning("purchase_never_made", reason=str(refused)[:300])
            await cancel_never_created(self._context, purchase)
            return
        await fault_point("payments.sweeper_created")
        await record_observation(self._context, purchase, view, Source.RESPONSE)
        await self._retrieve(purchase, view.id)  # the answer may be a repetition, as old as the first one under its key

    async def _cancel(self, purchase: Purchase) -> None:
        payment_intent = purchase.progress.payment_intent
        assert payment_intent is not None, "only what has a PaymentIntent is cancelled"
        try:
            view = await self._context.stripe.cancel_payment_intent(payment_intent)
        except StripeRefused:  # it has succeeded, is in process or was cancelled, or Stripe does not know it
            await self._retrieve(purchase, payment_intent)
        else:
            await record_observation(self._context, purchase, view, Source.RETRIEVED)

    async def _retrieve(self, purchase: Purchase, payment_intent: str) -> None:
        try:
            view = await self._context.stripe.retrieve_payment_intent(payment_intent)
        except StripeRefused as refused:
            if not refused.is_missing:
                raise
            await cancel_unknown_to_stripe(self._context, purchase, payment_intent)
        else:
            await record_observation(self._context, purchase, view, Source.RETRIEVED)

    async def _check_card(self, due: DueCard) -> None:
        card = due.card
        if card.state is CardState.ATTACHED and card.removal_requested_at is not None:
            await detach_at_stripe(self._context.stripe, card.payment_method)
            await record_detached(self._context, due.tenant, card.payment_method)
            return
        view = await self._context.stripe.retrieve_payment_method(card.payment_method)
        belongs = view is not None and view.customer is not None and view.customer == due.stripe_customer
        if not belongs and due.stripe_customer is not None:  # Stripe may not have the customer, nor any of its cards
            await record_missing(self._context, due.tenant, due.stripe_customer, None)
        details = card_details(view) if view is not None and belongs and view.type == "card" else None
        key = (due.tenant, card.payment_method)
        async with self._context.outbox.transaction(self._context.engine) as transaction:
            connection = transaction.connection
            detached = await cards.lock(connection, [card.payment_method])
            default = (await profiles.lock(connection, [due.tenant]))[due.tenant]
            before = (await cards.load(connection, [key]))[key]
            if before.removal_requested_at is not None:
                return
            after = apply_retrieval(before, None if detached else details, asked=card, now=self._context.clock())
            await cards.save(connection, {key: after})
            chosen = next_default(default, before, after)
            if chosen != default:
                await profiles.set_defaults(connection, {due.tenant: chosen}, self._context.clock())
            await profiles.increment_versions(transaction, [due.tenant])

    async def _repair_default(self, repair: DefaultRepair) -> None:
        try:
            await self._context.stripe.set_default_card(repair.stripe_customer, repair.default_payment_method)
        except StripeRefused as refused:
            log.warning("default_not_repaired", reason=str(refused)[:300])
            await record_missing(self._context, repair.tenant, repair.stripe_customer, repair.default_payment_method)
        async with self._context.engine.begin() as connection:
            await profiles.finish_default_repair(connection, repair)
