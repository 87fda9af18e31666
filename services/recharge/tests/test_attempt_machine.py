"""The attempt's states against a model of Stripe: answers lost, late, repeated and shuffled with events.

Stripe here keeps its rules: an idempotency key answers the same again, a PaymentIntent succeeds at most once and never
after it was cancelled. Whatever happens, an attempt has one PaymentIntent, one charge, and ends in one of two ways.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from recharge.core.answers import (
    Answer,
    CardUnusable,
    Declined,
    InProgress,
    NoAnswer,
    NotFound,
    OperatorError,
    OrderRefused,
    PaymentIntentSeen,
    RateLimited,
    ServerError,
    UnexpectedState,
)
from recharge.core.attempts import Attempt, Checkpoint, State, Try
from recharge.core.declines import DeclineCodes
from recharge.core.ledger_entries import after_credit
from recharge.core.next_action import NextAction, after_reconsideration, next_action
from recharge.core.payment_intent import after_event, after_payment_intent
from recharge.core.reconcile import after_empty_list, after_missing_payment_intent
from recharge.core.transitions import LEASE, Transition, give_up
from recharge.core.tries import after_answer, begin_try, repeat_try
from shared.events import Card
from shared.stripe_events import PaymentIntentView

START = datetime(2026, 9, 15, 12, tzinfo=UTC)
CARDS = tuple(
    Card(
        payment_method=f"pm_{name}", brand="visa", last4="4242", exp_month=1, exp_year=2030, fingerprint=name,
        usable=True,
    )
    for name in ("a", "b")
)  # fmt: skip
OUTCOMES = ("succeeds", "declined", "stolen", "authentication", "processing", "unusable")
FAULTS = (
    "none",
    "delayed",
    "lost_before",
    "lost_after",
    "error_before",
    "error_after",
    "conflict",
    "rate_limited",
    "refused",
    "order_refused",
    "order_refused_after_all",
)


@dataclass
class Stripe:
    """PaymentIntents of one attempt, and the answer to each key."""

    intents: dict[str, PaymentIntentView] = field(default_factory=dict[str, PaymentIntentView])
    kept: dict[str, tuple[datetime, Answer]] = field(default_factory=dict[str, tuple[datetime, Answer]])
    charges: int = 0
    seen: list[PaymentIntentView] = field(default_factory=list[PaymentIntentView])
    delayed: list[tuple[Attempt, Try, str]] = field(default_factory=list[tuple[Attempt, Try, str]])

    def call(self, attempt: Attempt, one: Try, outcome: str, fault: str, now: datetime) -> Answer:
        match fault:
            case "conflict":
                return InProgress()
            case "rate_limited":
                return RateLimited()
            case "refused":
                return OperatorError(401, "api_key_expired")
            case "order_refused":
                return OrderRefused("error")
            case "delayed":
                self.delayed.append((attempt, one, outcome))
                return NoAnswer("time_out")
            case "lost_before":
                return NoAnswer("time_out")
            case _:
                pass
        kept = self.kept.get(one.idempotency_key)
        if kept is not None and now - kept[0] < timedelta(hours=24):
            return NoAnswer("time_out") if fault == "lost_after" else kept[1]
        if fault == "error_before":
            self.kept[one.idempotency_key] = (now, ServerError(500))
            return ServerError(500)
        answer = self._execute(attempt, one, outcome, now)
        if isinstance(answer, (CardUnusable, UnexpectedState)):
            return answer
        if fault == "order_refused_after_all":  # a 400 after execution began is kept under the key
            answer = OrderRefused("error")
        if fault == "error_after":
            answer = ServerError(500)
        self.kept[one.idempotency_key] = (now, answer)
        return NoAnswer("time_out") if fault == "lost_after" else answer

    def _execute(self, attempt: Attempt, one: Try, outcome: str, now: datetime) -> Answer:
        if outcome == "unusable":
            return CardUnusable("resource_missing")
        if one.creates:
            name = f"pi_{len(self.intents) + 1}"
            self.intents[name] = _view(name, attempt, "requires_confirmation", now)
        else:
            name = attempt.payment_intent
            assert name is not None
        return self.confirm(name, outcome)

    def confirm(self, name: str, outcome: str) -> Answer:
        """Off-session by us, or on-session by the tenant."""
        view = self.intents[name]
        if view.status not in ("requires_payment_method", "requires_confirmation"):
            return UnexpectedState("payment_intent_unexpected_state")
        match outcome:
            case "succeeds":
                self.charges += 1
                self._show(replace(view, status="succeeded", error_code=None, decline_code=None))
            case "processing":
                self._show(replace(view, status="processing"))
            case _:
                code = {"declined": "insufficient_funds", "stolen": "stolen_card"}.get(
                    outcome, "authentication_required"
                )
                failed = replace(view, status="requires_payment_method", error_code="card_declined", decline_code=code)
                self._show(failed)
                return Declined(DeclineCodes("card_declined", code, None), failed)
        return PaymentIntentSeen(self.intents[name])

    def execute_delayed(self, now: datetime) -> None:
        """A request of ours that was delayed, but for less time than Stripe keeps its key."""
        attempt, one, outcome = self.delayed.pop(0)
        if now - one.first_called_at < timedelta(hours=24):
            self.call(attempt, one, outcome, "none", now)

    def complete_processing(self) -> None:
        for view in list(self.intents.values()):
            if view.status == "processing":
                self.charges += 1
                self._show(replace(view, status="succeeded"))

    def cancel(self, name: str) -> Answer:
        view = self.intents[name]
        if view.status in ("succeeded", "processing", "canceled"):
            return PaymentIntentSeen(view)  # refused; the executor retrieves it
        self._show(replace(view, status="canceled"))
        return PaymentIntentSeen(self.intents[name])

    def _show(self, view: PaymentIntentView) -> None:
        self.intents[view.id] = view
        self.seen.append(view)


def _view(name: str, attempt: Attempt, status: str, now: datetime) -> PaymentIntentView:
    return PaymentIntentView(
        id=name, status=status, amount_minor=attempt.amount_minor, amount_received_minor=0, currency=attempt.currency,
        customer="cus_1", payment_method=None, latest_charge=None, metadata={"attempt": attempt.attempt}, created=now,
        decline_code=None, advice_code=None, error_code=None, client_secret=None,
    )  # fmt: skip


class AttemptMachine(RuleBasedStateMachine):
    """One attempt, its executor, Stripe, Stripe's events and the ledger, in any order."""

    @initialize()
    def reserve(self) -> None:
        self.now = START
        self.stripe = Stripe()
        self.attempt = Attempt(
            tenant_id="acme", attempt="att_1", version=1, state=State.RESERVED, trigger="automatic", request=None,
            amount_minor=4_500, currency="usd", credits=1_000, package="medium", expires_in_days=None,
            limited_by_cap=False, stripe_customer="cus_1", profile_version=1, balance_available=10, created_at=START,
            changed_at=START, next_at=START,
        )  # fmt: skip
        self.tries: tuple[Try, ...] = ()
        self.late: list[Callable[[], None]] = []

    def apply(self, transition: Transition) -> None:
        assert transition.attempt.amount_minor == self.attempt.amount_minor
        if transition.attempt.state is State.CANCELED and self.attempt.state is not State.CANCELED:
            assert all(view.status == "canceled" for view in self.stripe.intents.values()), "ended too early"
        changed = {one.n: one for one in transition.tries}
        self.tries = tuple(one for _n, one in sorted(({one.n: one for one in self.tries} | changed).items()))
        self.attempt = transition.attempt

    def is_due(self) -> bool:
        return self.attempt.next_at <= self.now

    @rule(minutes=st.sampled_from([1, 11, 70, 400, 1_260, 1_500, 4_400]))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @precondition(lambda self: self.is_due())
    @rule(
        outcome=st.sampled_from(OUTCOMES),
        fault=st.sampled_from(FAULTS),
        is_refused=st.booleans(),
        is_killed=st.booleans(),
        is_late=st.booleans(),
    )
    def work(self, outcome: str, fault: str, is_refused: bool, is_killed: bool, is_late: bool) -> None:
        action = next_action(self.attempt, self.tries, self.now)
        match action:
            case NextAction.BEGIN:
                if is_refused:
                    self.apply(give_up(self.attempt, self.tries, "disabled", self.now))
                    return
                transition = begin_try(self.attempt, self.tries, CARDS, self.now)
                if transition is None:
                    self.apply(give_up(self.attempt, self.tries, "no_card", self.now, state=State.DECLINED))
                    return
                self.call(transition, outcome, fault, was_in_doubt=False, is_killed=is_killed, is_late=is_late)
            case NextAction.REPEAT_KEY:
                if is_refused:
                    self.apply(give_up(self.attempt, self.tries, "disabled", self.now))
                    return
                transition = repeat_try(self.attempt, self.tries[-1], self.now)
                self.call(transition, outcome, fault, was_in_doubt=True, is_killed=is_killed, is_late=is_late)
            case NextAction.RECONSIDER:
                self.apply(
                    after_reconsideration(self.attempt, self.tries, "disabled" if is_refused else None, self.now)
                )
            case NextAction.LIST | NextAction.RETRIEVE | NextAction.CANCEL:
                self.attempt = replace(self.attempt, next_at=self.now + LEASE)
                self.receive(self.read(action), is_killed=is_killed, is_late=is_late)
            case NextAction.NOTHING:
                pass

    @precondition(lambda self: self.is_due())
    @rule(outcome=st.sampled_from(OUTCOMES), first=st.sampled_from(FAULTS), second=st.sampled_from(FAULTS))
    def a_worker_stalls_and_wakes_while_another_is_asking(self, outcome: str, first: str, second: str) -> None:
        already_late = len(self.late)
        self.work(outcome, first, is_refused=False, is_killed=False, is_late=True)
        self.now += timedelta(minutes=1)
        if self.is_due():
            self.work(outcome, second, is_refused=False, is_killed=False, is_late=True)
        if len(self.late) > already_late:
            self.late.pop(already_late)()

    def call(
        self, transition: Transition, outcome: str, fault: str, *, was_in_doubt: bool, is_killed: bool, is_late: bool
    ) -> None:
        self.apply(transition)
        answer = self.stripe.call(self.attempt, self.tries[-1], outcome, fault, self.now)

        def transition_of() -> Transition | None:
            if self.tries[-1].outcome is not None:
                return None
            return after_answer(self.attempt, self.tries, answer, CARDS, was_in_doubt=was_in_doubt, now=self.now)

        self.receive(transition_of, is_killed=is_killed, is_late=is_late)

    def receive(self, transition_of: Callable[[], Transition | None], *, is_killed: bool, is_late: bool) -> None:
        """An answer arrives, now, later or never; it counts only at the checkpoint where it was asked."""
        asked = Checkpoint.of(self.attempt, self.tries)

        def record() -> None:
            transition = transition_of() if Checkpoint.of(self.attempt, self.tries) == asked else None
            if transition is not None:
                self.apply(transition)

        if is_late:
            self.late.append(record)
        elif not is_killed:
            record()

    def read(self, action: NextAction) -> Callable[[], Transition]:
        """What Stripe shows now, and the transition when that is recorded."""
        name, asked_at = self.attempt.payment_intent, self.now
        if action is NextAction.LIST or name is None:
            found = next(iter(self.stripe.intents.values()), None)
            answer: Answer = PaymentIntentSeen(found) if found else NotFound()
        else:
            answer = (
                self.stripe.cancel(name)
                if action is NextAction.CANCEL
                else PaymentIntentSeen(self.stripe.intents[name])
            )
        if isinstance(answer, PaymentIntentSeen):
            view = answer.view
            return lambda: after_payment_intent(self.attempt, self.tries, view, CARDS, self.now)
        if action is NextAction.LIST:
            return lambda: after_empty_list(self.attempt, self.tries, asked_at, CARDS, self.now)
        return lambda: after_missing_payment_intent(self.attempt, self.now)

    @precondition(lambda self: self.late)
    @rule(pick=st.integers(0, 50))
    def a_late_answer_arrives(self, pick: int) -> None:
        self.late.pop(pick % len(self.late))()

    @precondition(lambda self: self.stripe.seen)
    @rule(pick=st.integers(0, 50))
    def an_event_arrives(self, pick: int) -> None:
        view = self.stripe.seen[pick % len(self.stripe.seen)]
        self.apply(after_event(self.attempt, self.tries, view, self.now))

    @precondition(lambda self: self.stripe.delayed)
    @rule()
    def a_delayed_request_is_executed(self) -> None:
        self.stripe.execute_delayed(self.now)

    @rule()
    def a_processing_payment_succeeds(self) -> None:
        self.stripe.complete_processing()

    @precondition(lambda self: self.attempt.state is State.REQUIRES_ACTION and self.attempt.payment_intent)
    @rule(outcome=st.sampled_from(["succeeds", "declined"]))
    def its_owner_confirms_on_session(self, outcome: str) -> None:
        assert self.attempt.payment_intent is not None
        self.stripe.confirm(self.attempt.payment_intent, outcome)

    @precondition(lambda self: self.stripe.charges > 0)
    @rule()
    def the_ledger_posts_the_credits(self) -> None:
        self.apply(after_credit(self.attempt, self.now))

    @invariant()
    def one_payment_intent_and_one_charge(self) -> None:
        assert len(self.stripe.intents) <= 1
        assert self.stripe.charges <= 1

    @invariant()
    def what_stripe_may_have_made_is_in_doubt_until_it_is_known(self) -> None:
        if self.stripe.intents and self.attempt.payment_intent is None:
            assert any(one.in_doubt for one in self.tries)

    @invariant()
    def the_month_is_reserved_while_it_may_be_charged(self) -> None:
        may_have_charged = self.stripe.charges > 0 and self.attempt.state is not State.CANCELED
        if may_have_charged or self.attempt.state in (State.CHARGING, State.CHARGED, State.UNKNOWN):
            assert self.attempt.reserved_month is not None

    @invariant()
    def a_charge_is_never_given_up(self) -> None:
        if self.attempt.state is State.CANCELED:
            assert all(view.status == "canceled" for view in self.stripe.intents.values())
            assert self.stripe.charges == 0

    @invariant()
    def an_open_attempt_is_looked_at_again(self) -> None:
        if not self.attempt.has_ended:
            assert self.attempt.next_at <= self.now + timedelta(hours=73)


AttemptMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestAttempt = AttemptMachine.TestCase
