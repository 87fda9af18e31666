"""The second door: events that no webhook brought, fetched from Stripe. So a lost webhook heals by itself.

It keeps no state: what it publishes again is a duplicate, and those are harmless. To not repeat for 30 days what Stripe
has given up sending, a process remembers what it has published; the next process does not have to.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import Counter

from shared.clock import utc_now
from shared.logs import get_logger
from shared.stripe_events import EVENT_TYPES, MalformedEvent, StripeEvent, is_of_own_account, parse_event
from shared.trace import new_traceparent
from webhook_gateway.publisher import EventPublisher
from webhook_gateway.records import record_of
from webhook_gateway.stripe_gateway import TYPES_MAX, StripeGateway

log = get_logger()

#: Stripe keeps events for 30 days.
WINDOW_S = 30 * 24 * 60 * 60
#: Events held in memory before they are published; if Stripe has more, the rest follows in another pass.
PASS_EVENTS_MAX = 5_000
REMEMBERED_EVENTS_MAX = 100_000

_events = Counter("gateway_backfill_events_total", "Events that Stripe could not deliver.", ["outcome"])


@dataclass(frozen=True, slots=True)
class _Found:
    event: StripeEvent
    body: bytes


class Backfill:
    """Publishes what Stripe lists as undelivered, oldest first in each pass."""

    def __init__(
        self, stripe: StripeGateway, publisher: EventPublisher, *, pass_events_max: int = PASS_EVENTS_MAX
    ) -> None:
        self._stripe = stripe
        self._publisher = publisher
        self._pass_events_max = pass_events_max
        self._published: OrderedDict[str, None] = OrderedDict()

    async def run(self) -> int:
        """Publishes all undelivered events of the last 30 days and returns how many it had not published before.

        Raises `StripeRefused` or `NotPublished`; what was published until then stays published.
        """
        total = 0
        while True:
            found = await self._collect()
            found.reverse()  # Stripe lists the newest first, and its times are whole seconds
            for each in sorted(found, key=lambda each: each.event.created):
                await self._publish(each)
            total += len(found)
            if len(found) < self._pass_events_max:
                log.info("backfill_done", published=total)
                return total

    async def _collect(self) -> list[_Found]:
        """Undelivered events not published by this process, at most as many as a pass holds."""
        found: list[_Found] = []
        created_since = int(time.time()) - WINDOW_S
        for types in _chunks(EVENT_TYPES, TYPES_MAX):
            after: str | None = None
            while True:
                page = await self._stripe.undelivered_events(types, created_since, after)
                for body in page.bodies:
                    event = _parsed(body)
                    if event is not None and event.id not in self._published and is_of_own_account(event):
                        found.append(_Found(event, body))
                    if len(found) == self._pass_events_max:
                        return found
                if page.last_id is None:
                    break
                after = page.last_id
        return found

    async def _publish(self, found: _Found) -> None:
        record = record_of(found.event, found.body, origin="api", received_at=utc_now(), traceparent=new_traceparent())
        await self._publisher.publish(record)
        _events.labels("published").inc()
        log.debug("backfill_published", event_id=found.event.id, type=found.event.type)
        self._published[found.event.id] = None
        if len(self._published) > REMEMBERED_EVENTS_MAX:
            self._published.popitem(last=False)


def _parsed(body: bytes) -> StripeEvent | None:
    try:
        return parse_event(body)
    except MalformedEvent as error:
        _events.labels("malformed").inc()
        log.error("backfill_event_malformed", error=str(error))
        return None


def _chunks(types: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(types), size):
        yield types[start : start + size]
