"""The jobs of the worker: what was begun comes to its end, also when nobody asks any more. Never starts a charge."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from structlog.contextvars import bound_contextvars

from payments.core.cards import CardState, next_default, retrieved
from payments.core.purchases import Source, Step, next_step
from payments.repository import cards, idempotency, profiles, purchases
from payments.repository.cards import DueCard
from payments.repository.profiles import DefaultRepair
from payments.repository.purchases import Purchase
from payments.stripe_events import details_of
from payments.stripe_gateway import StripeGateway, StripeProblem, StripeRefused
from payments.workflows.missing_at_stripe import note_what_is_gone
from payments.workflows.purchase_progress import (
    create_payment_intent,
    find_payment_intent,
    note_missing,
    note_never_made,
    note_observation,
)
from payments.workflows.saved_cards import detach_at_stripe, note_detached
from shared.faults import fault_point
from shared.logs import get_logger
from shared.outbox import Outbox
from shared.process import Job
from shared.stripe_events import PaymentIntentView

log = get_logger()

RowT = TypeVar("RowT", Purchase, DueCard, DefaultRepair)
#: Claims rows that are due at a time, no more than so many.
Claim = Callable[[AsyncConnection, datetime, int], Awaitable[Sequence[RowT]]]

#: Rows taken at a time, side by side: a fair share of Stripe's 25 requests a second in test mode.
ROWS_AT_ONCE = 10
#: A run takes no more than this many times that; the rest waits for the next one.
ROUNDS_MAX = 10
PURCHASES_EVERY_S = 5.0
CARDS_EVERY_S = 1.0
DEFAULTS_EVERY_S = 2.0
FORGET_EVERY_S = 3_600.0


class Sweeper:
    """`engine` has the worker's role. Any number of replicas: rows are claimed and skipped while locked."""

    def __init__(
        self, engine: AsyncEngine, outbox: Outbox, stripe: StripeGateway, clock: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._outbox = outbox
        self._stripe = stripe
        self._clock = clock

    def jobs(self) -> tuple[Job, ...]:
        """For `run_worker`."""
        return (
            Job("sweep_purchases", self.sweep_purchases, every_s=PURCHASES_EVERY_S),
            Job("sweep_cards", self.sweep_cards, every_s=CARDS_EVERY_S),
            Job("repair_defaults", self.repair_defaults, every_s=DEFAULTS_EVERY_S),
            Job("forget_old_rows", self.forget_old_rows, every_s=FORGET_EVERY_S),
        )

    async def sweep_purchases(self) -> None:
        """Creates again, follows or cancels the purchases that are due, and cancels those in a recharge's way."""
        await self._work_through(purchases.claim_in_the_way, self._advance)
        await self._work_through(purchases.claim_due, self._advance)

    async def sweep_cards(self) -> None:
        """Detaches removed cards and looks at those of which an event did not tell enough."""
        await self._work_through(cards.claim_due, self._look_at_card)

    async def repair_defaults(self) -> None:
        """Tells Stripe which card is the default: our row is the truth."""
        await self._work_through(profiles.claim_default_repairs, self._repair_default)

    async def forget_old_rows(self) -> None:
        """Deletes idempotency keys and locks that nobody can need any more."""
        async with self._engine.begin() as connection:
            await idempotency.forget_old(connection, self._clock())
            await cards.forget_old_locks(connection, self._clock())

    async def _work_through(self, claim: Claim[RowT], work: Callable[[RowT], Awaitable[None]]) -> None:
        for _ in range(ROUNDS_MAX):
            async with self._engine.begin() as connection:
                due = await claim(connection, self._clock(), ROWS_AT_ONCE)
            done = await asyncio.gather(*(self._bear(row, work) for row in due), return_exceptions=True)
            for failure in filter(None, done):
                raise failure
            if len(due) < ROWS_AT_ONCE:
                return

    async def _bear(self, row: RowT, work: Callable[[RowT], Awaitable[None]]) -> None:
        """One row's trouble with Stripe is logged; the row is due again when its claim ends."""
        try:
            with bound_contextvars(tenant=row.tenant):
                await work(row)
        except StripeProblem as problem:
            log.warning("left_for_later", problem=problem.label, reason=str(problem)[:300])

    async def _advance(self, purchase: Purchase) -> None:
        step = next_step(
            purchase.progress,
            opened_at=purchase.created_at,
            state_since=purchase.state_since,
            is_in_the_way=purchase.is_in_the_way,
            now=self._clock(),
        )
        log.info("purchase_swept", purchase=purchase.purchase_id, step=step)
        match step:
            case Step.CREATE_AGAIN:
                try:
                    view = await create_payment_intent(
                        self._engine, self._outbox, self._stripe, purchase, self._clock()
                    )
                except StripeRefused as refused:
                    log.warning("purchase_never_made", reason=str(refused)[:300])
                    await note_never_made(self._engine, self._outbox, purchase)
                    return
                await fault_point("payments.sweeper_created")
                await self._note(purchase, view, Source.ANSWER)
                await self._follow(purchase, view.id)  # the answer is as old as the first one under its key
            case Step.FIND:
                found = await find_payment_intent(self._stripe, purchase)
                if found is None:
                    await note_never_made(self._engine, self._outbox, purchase)
                else:
                    await self._note(purchase, found, Source.RETRIEVED)
            case Step.CANCEL:
                await self._cancel(purchase)
            case Step.RETRIEVE:
                payment_intent = purchase.progress.payment_intent
                assert payment_intent is not None, "only what has a PaymentIntent is retrieved"
                await self._follow(purchase, payment_intent)

    async def _cancel(self, purchase: Purchase) -> None:
        payment_intent = purchase.progress.payment_intent
        assert payment_intent is not None, "only what has a PaymentIntent is cancelled"
        try:
            view = await self._stripe.cancel_payment_intent(payment_intent)
        except StripeRefused:  # it has succeeded, is in process or was cancelled, or Stripe does not know it
            await self._follow(purchase, payment_intent)
        else:
            await self._note(purchase, view, Source.RETRIEVED)

    async def _follow(self, purchase: Purchase, payment_intent: str) -> None:
        try:
            view = await self._stripe.retrieve_payment_intent(payment_intent)
        except StripeRefused as refused:
            if not refused.is_missing:
                raise
            await note_missing(self._engine, self._outbox, purchase, payment_intent)
        else:
            await self._note(purchase, view, Source.RETRIEVED)

    async def _note(self, purchase: Purchase, view: PaymentIntentView, source: Source) -> None:
        await note_observation(self._engine, self._outbox, purchase, view, source, self._clock())

    async def _look_at_card(self, due: DueCard) -> None:
        card = due.card
        if card.state is CardState.ATTACHED and card.removal_requested_at is not None:
            await detach_at_stripe(self._stripe, card.payment_method)
            await note_detached(self._engine, self._outbox, due.tenant, card.payment_method)
            return
        view = await self._stripe.retrieve_payment_method(card.payment_method)
        belongs = view is not None and view.customer is not None and view.customer == due.stripe_customer
        if not belongs and due.stripe_customer is not None:  # its customer may be gone, and every card with it
            await self._note_what_is_gone(due.tenant, due.stripe_customer, None)
        details = details_of(view) if view is not None and belongs and view.type == "card" else None
        key = (due.tenant, card.payment_method)
        async with self._outbox.transaction(self._engine) as transaction:
            connection = transaction.connection
            detached = await cards.lock(connection, [card.payment_method])
            default = (await profiles.lock(connection, [due.tenant]))[due.tenant]
            before = (await cards.load(connection, [key]))[key]
            if before.removal_requested_at is not None:
                return
            after = retrieved(before, None if detached else details, asked=card, now=self._clock())
            await cards.save(connection, {key: after})
            chosen = next_default(default, before, after)
            if chosen != default:
                await profiles.set_defaults(connection, {due.tenant: chosen}, self._clock())
            await profiles.changed(transaction, [due.tenant])

    async def _repair_default(self, repair: DefaultRepair) -> None:
        try:
            await self._stripe.set_default_card(repair.stripe_customer, repair.default_payment_method)
        except StripeRefused as refused:
            log.warning("default_not_repaired", reason=str(refused)[:300])
            await self._note_what_is_gone(repair.tenant, repair.stripe_customer, repair.default_payment_method)
        async with self._engine.begin() as connection:
            await profiles.default_repaired(connection, repair)

    async def _note_what_is_gone(self, tenant: str, customer: str, payment_method: str | None) -> None:
        await note_what_is_gone(
            self._engine, self._outbox, self._stripe, tenant, customer, payment_method, self._clock()
        )
