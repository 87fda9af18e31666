"""What the ledger does with each event, in the order it happens: events become commands, commands are applied."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from prometheus_client import Counter

from ledger.apply import apply
from ledger.archive import REFERENCES_KEPT
from ledger.core.commands import BeyondLimit, Command, Conflict, Outcome, Recorded, UnknownTenant, Usage
from ledger.core.tuples import tuple_of
from ledger.stripe_commands import HANDLED_TYPES, command_of
from shared.clock import utc_now
from shared.events import UndecodableEvent, UsageRecorded, decode
from shared.kafka import Record
from shared.logs import get_logger
from shared.outbox import Transaction
from shared.poison import Poison, RecordRefused
from shared.stripe_events import EVENT_TYPES, Header, MalformedEvent, parse_event

log = get_logger()

#: Older usage may have been recorded already and its reference be in the archive, so that it would count twice.
USAGE_AGE_MAX = REFERENCES_KEPT - timedelta(days=5)
#: Usage is recorded after it happened; clocks differ by less.
USAGE_AHEAD_MAX = timedelta(hours=1)


_stripe_events = Counter("ledger_stripe_events_total", "Stripe events, by what became of them.", ["type", "outcome"])
_usage = Counter("ledger_usage_records_total", "usage.recorded, by what became of them.", ["outcome"])


class Handlers:
    """The handlers of both topics. `signing_keys` verify what a PaymentIntent says it is for."""

    def __init__(self, signing_keys: Sequence[str]) -> None:
        self._signing_keys = signing_keys

    async def on_stripe_events(self, transaction: Transaction, records: Sequence[Record]) -> None:
        """Credits, receipts and reversals. Types that move no credits, and what is not ours, are counted and left."""
        commands: list[Command] = []
        types: list[str] = []
        for record in records:
            event_type = record.headers.get(Header.TYPE)
            if event_type is not None and event_type not in HANDLED_TYPES:
                _count_stripe(event_type, "ignored")
                continue
            try:
                event = parse_event(record.value or b"")
                command = command_of(event, self._signing_keys)
            except MalformedEvent as error:
                raise Poison(str(error)) from error
            if command is None:
                _count_stripe(event.type, "ignored")
                continue
            log.debug("stripe_event_read", event_id=event.id, command=type(command).__name__)
            commands.append(command)
            types.append(event.type)
        if not commands:
            return
        outcomes = await apply(transaction, commands, utc_now())
        for event_type, command, outcome in zip(types, commands, outcomes, strict=True):
            _refuse_unfit(outcome, of=command, as_=Poison)
            _count_stripe(event_type, type(outcome).__name__.lower())
            log.debug("stripe_event_applied", command=type(command).__name__, outcome=type(outcome).__name__)

    async def on_usage(self, transaction: Transaction, records: Sequence[Record]) -> None:
        """Usage is a fact: recorded whatever the balance. Unknown tenants, contradictions and what is told by a wrong
        clock or more than a year late are dead-lettered."""
        now = utc_now()
        ahead_max = -USAGE_AHEAD_MAX
        commands: list[Usage] = []
        for record in records:
            try:
                usage = decode(record.value, UsageRecorded)
            except UndecodableEvent as error:
                raise Poison(str(error)) from error
            if usage is None:
                _usage.labels("ignored").inc()
                continue
            tenant, reference, purpose, occurred_at = usage.tenant, usage.reference, usage.purpose, usage.occurred_at
            if "\x00" in tenant or "\x00" in reference or "\x00" in purpose:
                raise Poison("usage with a NUL character, which no text column holds")
            if occurred_at.tzinfo is None:
                raise Poison("usage whose time has no zone")
            if not ahead_max <= now - occurred_at <= USAGE_AGE_MAX:
                raise _untimely(occurred_at, now)
            commands.append(tuple_of(Usage, (tenant, reference, usage.credits, purpose, occurred_at)))
        if not commands:
            return
        outcomes = await apply(transaction, commands, now)
        for command, outcome in zip(commands, outcomes, strict=True):
            if type(outcome) is not Recorded:
                _refuse_unfit(outcome, of=command, as_=RecordRefused)
        _count_usage(outcomes)


def _untimely(occurred_at: datetime, now: datetime) -> RecordRefused:
    """Why usage of a time that cannot be told from a repetition, or has not come, is refused."""
    if occurred_at > now:
        return RecordRefused(
            f"usage of {occurred_at.isoformat()} lies in the future: a clock is wrong, the product's or the ledger's "
            f"({now.isoformat()}). Set it right, and send the usage again with its own time and reference."
        )
    return RecordRefused(
        f"usage of {occurred_at.isoformat()} is older than {USAGE_AGE_MAX.days} days: references of that time may "
        "be in the archive, so it could count twice. If it was never recorded, adjust the tenant's balance instead."
    )


def _refuse_unfit(outcome: Outcome, of: Command, as_: type[Poison]) -> None:
    """Raises `as_` where a fact cannot be written: the batch is undone, the others are applied without it."""
    match outcome:
        case Conflict(reference):
            raise as_(f"{type(of).__name__}: reference {reference!r} carries another input already")
        case UnknownTenant():
            raise as_(f"{type(of).__name__}: the tenant has never had credits")
        case BeyondLimit():
            raise as_(f"{type(of).__name__}: the balance would leave the range of 2^53 - 1 credits")
        case _:
            return


def _count_usage(outcomes: Sequence[Outcome]) -> None:
    posted = outcomes.count(Recorded())
    repeated = outcomes.count(Recorded(repeated=True))
    for what, count in (
        ("posted", posted), ("beyond_limit", len(outcomes) - posted - repeated), ("repeated", repeated),
    ):  # fmt: skip
        if count:
            _usage.labels(what).inc(count)


def _count_stripe(event_type: str, outcome: str) -> None:
    known = event_type if event_type in EVENT_TYPES else "other"
    _stripe_events.labels(known, outcome).inc()
