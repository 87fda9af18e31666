"""Fetches events that no webhook brought from Stripe and publishes them, so that a lost webhook is made up for.

It reads two lists. Stripe lists as undelivered what an endpoint failed to acknowledge. An endpoint that was disabled or
deleted, or whose webhooks another server acknowledged, failed nothing: events of that time are in no such list, so all
events since the cursor are read too. An event that `stripe.events` is known to hold is not published again. Where that
is not known it is: every consumer handles duplicates.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aiokafka.errors import KafkaError

from shared.clock import utc_now
from shared.logs import get_logger
from shared.stripe_events import EVENT_TYPES, MalformedEvent, StripeEvent, is_of_own_account, parse_event
from shared.trace import new_traceparent
from webhook_gateway.core.records import record_of
from webhook_gateway.event_log import EventLog
from webhook_gateway.metrics import backfill_events
from webhook_gateway.publisher import EventPublisher, NotPublished
from webhook_gateway.stripe_gateway import TYPES_MAX, EventsAsked, StripeGateway, StripeRefused

log = get_logger()

#: Stripe keeps events for 30 days.
WINDOW_S = 30 * 24 * 60 * 60
#: How far before the cursor events are read again: an event may be listed some time after `created`.
OVERLAP_S = 600
#: Events held in memory before they are published. If Stripe lists more, another pass reads the rest.
PASS_EVENTS_MAX = 5_000
REMEMBERED_EVENTS_MAX = 100_000
RUN_TIMEOUT_S = 900.0
#: What may stop a run although nothing is broken here. The message says what to do.
EXPECTED_ERRORS = (StripeRefused, NotPublished, KafkaError)


@dataclass(frozen=True, slots=True)
class _Found:
    event: StripeEvent
    body: bytes

    @property
    def created(self) -> int:
        """Stripe's whole seconds."""
        return int(self.event.created.timestamp())


class Backfill:
    """Publishes events that no webhook brought, oldest first in each pass."""

    def __init__(
        self,
        stripe: StripeGateway,
        publisher: EventPublisher,
        *,
        pass_events_max: int = PASS_EVENTS_MAX,
    ) -> None:
        self._stripe = stripe
        self._publisher = publisher
        self._pass_events_max = pass_events_max
        self._known: OrderedDict[str, None] = OrderedDict()

    async def run(self, event_log: EventLog) -> int:
        """Publishes all events of Stripe's 30 days that are not in the topic. Returns how many there were.

        Raises `StripeRefused`, `NotPublished` or `KafkaError`. The next run continues from what was published.
        """
        oldest = int(time.time()) - WINDOW_S
        published = await self._catch_up(event_log, oldest) + await self._publish_undelivered(event_log, oldest)
        log.info("backfill_done", published=published)
        return published

    async def _catch_up(self, event_log: EventLog, oldest: int) -> int:
        """All events since the cursor, in passes of bounded size: a time span with too many events is halved."""
        cursor = await event_log.cursor()
        since = oldest if cursor is None else max(oldest, cursor - OVERLAP_S)
        span_s: int | None = None
        newest, published = cursor or 0, 0
        while True:
            until = None if span_s is None else since + span_s
            found, is_cut = await self._listed(EventsAsked(since, until), self._pass_events_max)
            newest = max([newest, *(each.created for each in found)])
            if is_cut:
                span_s = (min(newest + 1, until or newest + 1) - since) // 2
                if span_s > 0:
                    continue
                until = since + 1  # a second cannot be halved: this pass holds all of its events
                found, _ = await self._listed(EventsAsked(since, until), None)
            if found:
                published += await self._publish(found, await event_log.event_ids(since, until))
                await event_log.move_cursor(max(each.created for each in found))
            if until is None or until > newest:
                return published
            since, span_s = until, 2 * (until - since)

    async def _publish_undelivered(self, event_log: EventLog, oldest: int) -> int:
        """What Stripe lists as undelivered. It stays listed for 30 days, so published events are remembered."""
        published = 0
        while True:
            asked = EventsAsked(oldest, until=None, are_undelivered=True)
            found, is_cut = await self._listed(asked, self._pass_events_max, without_known=True)
            if found:
                known = await event_log.event_ids(min(each.created for each in found), until=None)
                published += await self._publish(found, known)
                for each in found:
                    self._remember(each.event.id)
            if not is_cut:
                return published

    async def _listed(
        self, asked: EventsAsked, events_max: int | None, *, without_known: bool = False
    ) -> tuple[list[_Found], bool]:
        """Events of our own account and of every type that we take, and whether there are more than `events_max`."""
        found: list[_Found] = []
        for types in _chunks(EVENT_TYPES, TYPES_MAX):
            async for body in self._stripe.events(types, asked):
                event = _parsed(body)
                if event is None or not is_of_own_account(event) or (without_known and event.id in self._known):
                    continue
                if len(found) == events_max:
                    return found, True
                found.append(_Found(event, body))
        return found, False

    async def _publish(self, found: list[_Found], known: set[str]) -> int:
        """Publishes those that are not known, oldest first. Stripe lists the newest first, in whole seconds."""
        published = 0
        oldest_first = found[::-1]
        for each in sorted(oldest_first, key=lambda each: each.created):
            if each.event.id in known or each.event.id in self._known:
                continue
            await self._publisher.publish(
                record_of(each.event, each.body, origin="api", received_at=utc_now(), traceparent=new_traceparent())
            )
            backfill_events.labels("published").inc()
            log.debug("backfill_published", event_id=each.event.id, type=each.event.type)
            self._remember(each.event.id)
            published += 1
        return published

    def _remember(self, event_id: str) -> None:
        self._known[event_id] = None
        if len(self._known) > REMEMBERED_EVENTS_MAX:
            self._known.popitem(last=False)


def _parsed(body: bytes) -> StripeEvent | None:
    try:
        return parse_event(body)
    except MalformedEvent as error:
        backfill_events.labels("malformed").inc()
        log.error("backfill_event_malformed", error=str(error))
        return None


def _chunks(types: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(types), size):
        yield types[start : start + size]
