"""Sends signed events to their endpoints, concurrently and in no order, and repeats each until it is answered 2xx."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from stripe_simulator.account import Account, EventRecord
from stripe_simulator.fault_registry import FaultRegistry
from stripe_simulator.webhooks.connection import PostConnection
from stripe_simulator.webhooks.faults import WebhookFault, WebhookFaultKind
from stripe_simulator.webhooks.signature import signature_header


@dataclass(frozen=True)
class Delivery:
    """One event on its way to one endpoint."""

    record: EventRecord
    endpoint_id: str
    attempt: int = 1


@dataclass(frozen=True)
class AttemptEntry:
    """One attempt to deliver, for tests to assert on. `status` is None when there was no answer."""

    event: str
    event_type: str
    endpoint: str
    attempt: int
    status: int | None


@dataclass
class Counts:
    """What has become of deliveries so far."""

    delivered: int = 0
    attempts_failed: int = 0
    given_up: int = 0
    dropped: int = 0


class WebhookSender:
    """A bounded number of workers over one queue. `start` and `stop` it in the loop it runs in."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._settings = account.settings
        self.faults: FaultRegistry[WebhookFault] = FaultRegistry("webhook_fault")
        self.counts = Counts()
        self.attempts: deque[AttemptEntry] = deque(maxlen=account.settings.log_entries_max)
        self.held: list[Delivery] = []
        self._queue: asyncio.Queue[Delivery] = asyncio.Queue()
        self._under_way = 0
        self._progress = asyncio.Event()
        self._timers: set[asyncio.TimerHandle] = set()
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._settings.webhooks_at_once_max)]

    async def stop(self) -> None:
        self._cancel_timers()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    def reset(self, account: Account) -> None:
        """Continue with a new account. Drops everything queued, held or counted, and cuts off what is in flight."""
        self.account = account
        self._cancel_timers()
        self._queue = asyncio.Queue()
        for worker in self._workers:
            worker.cancel()
        self.start()
        self._under_way = 0
        self.held.clear()
        self.attempts.clear()
        self.counts = Counts()
        self.faults.clear()
        self._progressed()

    @property
    def under_way(self) -> int:
        """Deliveries queued, in flight, or waiting for their next attempt; held and dropped ones don't count."""
        return self._under_way

    def submit(self, records: Iterable[EventRecord]) -> None:
        """Send each event to every endpoint that it is owed to."""
        for record in records:
            for endpoint_id in sorted(record.undelivered_to):
                self._submit_one(Delivery(record, endpoint_id))

    def send_again(self, record: EventRecord) -> int:
        """Send an event to every enabled endpoint once more, whatever became of it. Answers how many."""
        endpoints = [each["id"] for each in self.account.webhook_endpoints if each["status"] == "enabled"]
        for endpoint_id in endpoints:
            self._enqueue(Delivery(record, endpoint_id))
        return len(endpoints)

    def release(self, *, shuffle: bool, seed: int | None, copies: int) -> int:
        """Send what was held, `copies` times each, in the order held or shuffled. Answers how many are sent."""
        released = [delivery for delivery in self.held for _ in range(copies)]
        self.held.clear()
        if shuffle:
            random.Random(seed).shuffle(released)
        for delivery in released:
            self._enqueue(delivery)
        return len(released)

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until deliveries have made the condition true; false when the time is up first."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    def _submit_one(self, delivery: Delivery) -> None:
        event_type = delivery.record.event["type"]
        fault = self.faults.hit(lambda fault: fault.matches(event_type))
        if fault is None:
            self._enqueue(delivery)
            return
        match fault.kind:
            case WebhookFaultKind.DROP:
                self.counts.dropped += 1
            case WebhookFaultKind.DUPLICATE:
                for _ in range(1 + fault.copies):
                    self._enqueue(delivery)
            case WebhookFaultKind.DELAY:
                self._under_way += 1
                self._later(fault.seconds, delivery)
            case WebhookFaultKind.HOLD:
                self.held.append(delivery)

    def _enqueue(self, delivery: Delivery) -> None:
        self._under_way += 1
        self._queue.put_nowait(delivery)

    def _later(self, delay_s: float, delivery: Delivery) -> None:
        def put() -> None:
            self._timers.discard(timer)
            self._queue.put_nowait(delivery)

        timer = asyncio.get_running_loop().call_later(delay_s, put)
        self._timers.add(timer)

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    async def _work(self) -> None:
        queue = self._queue
        connection = PostConnection()
        try:
            while True:
                delivery = await queue.get()
                self._conclude(delivery, await self._attempt(connection, delivery))
        finally:
            connection.close()

    async def _attempt(self, connection: PostConnection, delivery: Delivery) -> int | None:
        """The endpoint's status; None if it has gone, is disabled, or gave no answer in time."""
        endpoint = self.account.webhook_endpoints.get(delivery.endpoint_id)
        signing = self.account.endpoints.get(delivery.endpoint_id)
        if endpoint is None or signing is None or not self._is_enabled(delivery.endpoint_id):
            return None
        body = delivery.record.body
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature_header(body, signing.secrets, self.account.clock.real_now()),
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
        }
        try:
            async with asyncio.timeout(self._settings.webhook_timeout_s):
                return await connection.post(endpoint["url"], headers, body)
        except (OSError, EOFError, ValueError):  # TimeoutError is an OSError
            connection.close()
            return None

    def _conclude(self, delivery: Delivery, status: int | None) -> None:
        event = delivery.record.event
        self.attempts.append(AttemptEntry(event["id"], event["type"], delivery.endpoint_id, delivery.attempt, status))
        self._under_way -= 1
        if status is not None and 200 <= status < 300:
            self.counts.delivered += 1
            self.account.mark_delivered(delivery.record, delivery.endpoint_id)
        else:
            self.counts.attempts_failed += 1
            if not self._is_enabled(delivery.endpoint_id) or delivery.attempt >= self._settings.retry.attempts_max:
                self.counts.given_up += 1
            else:
                self._under_way += 1
                delay_s = self._settings.retry.delay_s(delivery.attempt)
                self._later(delay_s, replace(delivery, attempt=delivery.attempt + 1))
        self._progressed()

    def _is_enabled(self, endpoint_id: str) -> bool:
        """A retry that finds its endpoint gone or disabled is the last one (https://docs.stripe.com/webhooks)."""
        endpoint = self.account.webhook_endpoints.get(endpoint_id)
        return endpoint is not None and endpoint_id in self.account.endpoints and endpoint["status"] == "enabled"

    def _progressed(self) -> None:
        self._progress.set()
        self._progress.clear()
