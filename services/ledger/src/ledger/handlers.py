"""What each event does, in the transaction of its batch: events become commands, and commands are applied."""

from collections.abc import Sequence

from prometheus_client import Counter

from ledger.core.commands import (
    COMMAND_NAMES,
    OUTCOME_NAMES,
    BalanceOutOfRange,
    Command,
    Conflict,
    CurrencyDiffers,
    Outcome,
    Recorded,
    UnknownTenant,
)
from ledger.stripe_events import HANDLED_TYPES, command_of
from ledger.usage_records import usage_of
from ledger.workflows.apply_commands import apply_commands
from shared.kafka import Record
from shared.logs import get_logger
from shared.outbox import Transaction
from shared.poison import Poison, RecordRefused, dead_letter_with
from shared.stripe_events import EVENT_TYPES, Header, MalformedEvent, is_of_own_account, parse_event
from shared.topics import TopicName

log = get_logger()

GROUP = "ledger"

_stripe_events = Counter("ledger_stripe_events_total", "Stripe events, by what became of them.", ["type", "outcome"])
_usage = Counter("ledger_usage_records_total", "usage.recorded, by what became of them.", ["outcome"])


class Handlers:
    """The handlers of both topics. `signing_keys` verify the metadata of PaymentIntents."""

    def __init__(self, signing_keys: Sequence[str]) -> None:
        self._signing_keys = signing_keys

    async def on_stripe_events(self, transaction: Transaction, records: Sequence[Record]) -> None:
        """Credits, unapplied receipts and reversals. Events of other types, and of other business on the account, are
        counted and ignored."""
        commands: list[Command] = []
        types: list[str] = []
        read: list[Record] = []
        for record in records:
            event_type = record.headers.get(Header.TYPE)
            if event_type is not None and event_type not in HANDLED_TYPES:
                _count_stripe(event_type, "ignored")
                continue
            try:
                event = parse_event(record.value or b"")
                command = command_of(event, self._signing_keys) if is_of_own_account(event) else None
            except MalformedEvent as error:
                raise Poison(str(error)) from error
            if command is None:
                _count_stripe(event.type, "ignored")
                continue
            log.debug("stripe_event_read", event_id=event.id, command=COMMAND_NAMES[type(command)])
            commands.append(command)
            types.append(event.type)
            read.append(record)
        if not commands:
            return
        outcomes = await apply_commands(transaction, commands, transaction.now)
        for event_type, command, outcome, record in zip(types, commands, outcomes, read, strict=True):
            _raise_if_refused(outcome, of=command, as_=Poison)
            if isinstance(outcome, CurrencyDiffers):
                reason = f"{COMMAND_NAMES[type(command)]}: not in {outcome.credited}, which was credited"
                dead_letter_with(transaction, record, topic=TopicName.STRIPE_EVENTS, group=GROUP, reason=reason)
            outcome_name = OUTCOME_NAMES[type(outcome)]
            _count_stripe(event_type, outcome_name.lower())
            log.debug("stripe_event_applied", command=COMMAND_NAMES[type(command)], outcome=outcome_name)

    async def on_usage(self, transaction: Transaction, records: Sequence[Record]) -> None:
        """Records usage, whatever the balance. Records of unknown tenants, that contradict their reference, that come
        from a wrong clock, or that are more than a year late become dead letters."""
        now = transaction.now
        commands = usage_of(records, now)
        if len(commands) < len(records):
            _usage.labels("ignored").inc(len(records) - len(commands))
        if not commands:
            return
        outcomes = await apply_commands(transaction, commands, now)
        for command, outcome in zip(commands, outcomes, strict=True):
            if type(outcome) is not Recorded:
                _raise_if_refused(outcome, of=command, as_=RecordRefused)
        _count_usage(outcomes)


def _raise_if_refused(outcome: Outcome, of: Command, as_: type[Poison]) -> None:
    """Raises `as_` if the command was refused. That rolls the batch back, and the others are applied without it."""
    match outcome:
        case Conflict(reference):
            raise as_(f"{COMMAND_NAMES[type(of)]}: reference {reference!r} carries another input already")
        case UnknownTenant():
            raise as_(f"{COMMAND_NAMES[type(of)]}: the tenant has never had credits")
        case BalanceOutOfRange():
            raise as_(f"{COMMAND_NAMES[type(of)]}: the balance would leave the range of 2^53 - 1 credits")
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
