"""The load on the ledger's topics in a soak."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer

from embedded.environment import DEVELOPMENT_SIGNING_KEY, SIMULATOR_SECRET_KEY
from shared.clock import utc_now
from shared.events import UsageRecorded, encode
from shared.signed_metadata import CreditOrder, sign
from shared.stripe_events import EVENT_TYPES
from shared.topics import TopicName
from stripe_simulator.testing import WebhookReceiver

from .soak_expected import Expected, Key, Sale

PAUSE_S = 0.02
DELAYED_MAX = 60
DELIVERY_TIMEOUT_S = 30.0


@dataclass(slots=True)
class EventLoad:
    """Sends usage records, payments, refunds and disputes: in random order, on any partition, some twice.

    Stripe's events are the simulator's own: `stripe` calls it, and `webhooks` receives its webhooks.
    """

    producer: AIOKafkaProducer
    stripe: httpx.AsyncClient
    webhooks: WebhookReceiver
    prefix: str
    rng: random.Random
    expected: Expected
    sent_at: dict[Key, float] = field(default_factory=dict[Key, float])
    stopped: bool = False
    _delayed: list[bytes] = field(default_factory=list[bytes])
    _received: int = 0

    async def run(self) -> None:
        while not self.stopped:
            await self.send_usage()
            if self.rng.random() < 0.3:
                await self._sell()
            self._receive()
            while len(self._delayed) > DELAYED_MAX:
                await self._send_one()
            await asyncio.sleep(PAUSE_S)
        await self._simulate("/webhooks/settle", timeout_s=DELIVERY_TIMEOUT_S)
        self._receive()
        while self._delayed:
            await self._send_one()

    async def send_usage(self) -> None:
        tenant, name = self.rng.choice(self.expected.tenants), f"usage-{len(self.sent_at)}"
        key = self.expected.post(tenant, "product", name, -self.rng.randint(1, 5))
        self.sent_at[key] = float("inf")
        used = UsageRecorded(
            tenant=tenant, reference=name, credits=-self.expected.entries[key][0], occurred_at=utc_now(), purpose="chat"
        )
        for _ in range(self.rng.choice((1, 1, 1, 2))):
            await self._send(TopicName.USAGE_RECORDED, encode(used, event_id=name, now=utc_now()))
        self.sent_at[key] = time.time()

    async def _send_one(self) -> None:
        event = self._delayed.pop(self.rng.randrange(len(self._delayed)))
        for _ in range(self.rng.choice((1, 1, 1, 2))):
            await self._send(TopicName.STRIPE_EVENTS, event)

    async def _send(self, topic: TopicName, value: bytes) -> None:
        partitions = sorted(await self.producer.partitions_for(self.prefix + topic))
        await self.producer.send_and_wait(self.prefix + topic, value, partition=self.rng.choice(partitions))

    def _receive(self) -> None:
        """Adds the webhooks that have arrived since. `_send_one` picks among them at random."""
        arrived = self.webhooks.received[self._received :]
        self._received += len(arrived)
        self._delayed += [each.body for each in arrived if json.loads(each.body)["type"] in EVENT_TYPES]

    async def _sell(self) -> None:
        """A paid purchase, of which some is refunded or disputed: never more than was paid."""
        credits, amount = self.rng.randint(50, 150), self.rng.randint(500, 1_500)
        tenant = self.rng.choice(self.expected.tenants)
        order = CreditOrder(tenant, credits, amount, "usd", purchase=f"pur_{len(self.expected.sales)}")
        payment = {"amount_minor": amount, "currency": "usd", "metadata": sign(order, DEVELOPMENT_SIGNING_KEY)}
        [made] = await self._simulate("/payments", payments=[payment])
        name: str = made["payment_intent"]
        sale = self.expected.sales[name] = Sale(tenant, credits, amount)
        self.expected.post(tenant, "stripe", name, credits)
        left = amount
        for _ in range(self.rng.choice((0, 0, 1, 2))):
            part, fails = self.rng.randint(1, left // 2), self.rng.random() < 0.2
            refund = await self._refund(name, part)
            if fails:
                await self._simulate(f"/refunds/{refund}/settle", outcome="failed")
            else:
                left -= part
            sale.refunds.append((part, fails))
        if self.rng.random() < 0.2:
            part, is_won = self.rng.randint(1, left), self.rng.random() < 0.5
            dispute = await self._simulate(f"/charges/{name}/dispute", amount_minor=part)
            if is_won:
                await self._simulate(f"/disputes/{dispute['id']}/resolve", outcome="won")
            sale.disputes.append((part, is_won))

    async def _refund(self, payment_intent: str, amount_minor: int) -> str:
        form = {"payment_intent": payment_intent, "amount": amount_minor}
        headers = {"Authorization": f"Bearer {SIMULATOR_SECRET_KEY}"}
        answer = await self.stripe.post("/v1/refunds", data=form, headers=headers)
        return str(answer.raise_for_status().json()["id"])

    async def _simulate(self, path: str, **body: Any) -> Any:
        return (await self.stripe.post(f"/_sim{path}", json=body)).raise_for_status().json()
