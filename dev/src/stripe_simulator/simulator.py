"""A running simulator: its parts, and how they are connected."""

import asyncio
from collections.abc import Callable

from stripe_simulator.account import Account
from stripe_simulator.api.faults import Fault
from stripe_simulator.api.idempotency import IdempotencyKeys
from stripe_simulator.api.request_log import RequestLog
from stripe_simulator.clock import Clock
from stripe_simulator.contract import Contract, load_contract
from stripe_simulator.fault_registry import FaultRegistry
from stripe_simulator.ids import new_secret
from stripe_simulator.resources.webhook_endpoints import register
from stripe_simulator.settings import Settings
from stripe_simulator.webhooks.sender import WebhookSender


class Simulator:
    """One account with its idempotency keys, faults, log and webhook sender."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.contract: Contract = load_contract()
        self.faults: FaultRegistry[Fault] = FaultRegistry("fault")
        self.log = RequestLog(settings.log_entries_max)
        self.account = self._new_account()
        self.keys = IdempotencyKeys(self.account.clock)
        self.sender = WebhookSender(self.account)
        self.started_over = asyncio.Event()
        """Set on a reset, for requests that wait on behalf of the old account."""
        self._timers: set[asyncio.TimerHandle] = set()

    def reset(self) -> None:
        """Restore the state right after the start."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self.started_over.set()
        self.started_over = asyncio.Event()
        self.account = self._new_account()
        self.keys = IdempotencyKeys(self.account.clock)
        self.faults.clear()
        self.log.clear()
        self.sender.reset(self.account)

    def publish(self) -> None:
        """Send the events that the last operation caused, and start the clock on what it postponed."""
        self.sender.submit(self.account.take_outgoing())
        for delay_s, work in self.account.take_postponed():
            self._run_later(delay_s, work)

    def _run_later(self, delay_s: float, work: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            work()
            self.publish()

        timer = asyncio.get_running_loop().call_later(delay_s, run)
        self._timers.add(timer)

    def _new_account(self) -> Account:
        account = Account(self.settings, Clock(), self.contract)
        if self.settings.webhook_url:
            secret = self.settings.webhook_secret or f"whsec_{new_secret(32)}"
            register(account, self.settings.webhook_url, list(self.settings.webhook_events), secret=secret)
        return account
