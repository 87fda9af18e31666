"""What the ledger's topics are told in a soak."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer

from embedded.environment import DEVELOPMENT_SIGNING_KEY
from load.webhooks import body_of, event
from shared.clock import utc_now
from shared.events import UsageRecorded, encode
from shared.signed_metadata import CreditOrder, sign
from shared.topics import TopicName

from .soak_expected import Expected, Key, Sale

PAUSE_S = 0.02
TOLD_LATER_MAX = 60


@dataclass(slots=True)
class Teller:
    """Tells the topics of usage, credits, refunds and disputes: in no order, on any partition, some twice."""

    producer: AIOKafkaProducer
    prefix: str
    chance: random.Random
    expected: Expected
    told_at: dict[Key, float] = field(default_factory=dict[Key, float])
    stopped: bool = False
    _later: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    async def run(self) -> None:
        while not self.stopped:
            await self.tell_usage()
            if self.chance.random() < 0.3:
                self._sell()
            while len(self._later) > TOLD_LATER_MAX:
                await self._tell_one()
            await asyncio.sleep(PAUSE_S)
        while self._later:
            await self._tell_one()

    async def tell_usage(self) -> None:
        tenant, name = self.chance.choice(self.expected.tenants), f"usage-{len(self.told_at)}"
        key = self.expected.post(tenant, "product", name, -self.chance.randint(1, 5))
        self.told_at[key] = float("inf")
        used = UsageRecorded(
            tenant=tenant, reference=name, credits=-self.expected.entries[key][0], occurred_at=utc_now(), purpose="chat"
        )
        for _ in range(self.chance.choice((1, 1, 1, 2))):
            await self._send(TopicName.USAGE_RECORDED, encode(used, event_id=name, now=utc_now()))
        self.told_at[key] = time.time()

    async def _tell_one(self) -> None:
        told = self._later.pop(self.chance.randrange(len(self._later)))
        for _ in range(self.chance.choice((1, 1, 1, 2))):
            await self._send(TopicName.STRIPE_EVENTS, body_of(told))

    async def _send(self, topic: TopicName, value: bytes) -> None:
        partitions = sorted(await self.producer.partitions_for(self.prefix + topic))
        await self.producer.send_and_wait(self.prefix + topic, value, partition=self.chance.choice(partitions))

    def _sell(self) -> None:
        name = f"pi_{len(self.expected.sales)}"
        credits, amount = self.chance.randint(50, 150), self.chance.randint(500, 1_500)
        sale = self.expected.sales[name] = Sale(self.chance.choice(self.expected.tenants), credits, amount)
        order = CreditOrder(sale.tenant, credits, amount, "usd", purchase=f"pur_{name}")
        self.expected.post(sale.tenant, "stripe", name, credits)
        self._tell_later(
            "payment_intent.succeeded", "payment_intent", id=name, amount=amount, amount_received=amount,
            created=int(time.time()), status="succeeded", metadata=sign(order, DEVELOPMENT_SIGNING_KEY),
        )  # fmt: skip
        for n in range(self.chance.choice((0, 0, 1, 2))):
            part, fails = self.chance.randint(1, amount), self.chance.random() < 0.2
            sale.refunds.append((part, fails))
            refund = {"id": f"re_{name}_{n}", "payment_intent": name, "amount": part}
            self._tell_later("refund.created", "refund", status="succeeded", **refund)
            if fails:
                self._tell_later("refund.failed", "refund", status="failed", **refund)
        if self.chance.random() < 0.2:
            part, is_won = self.chance.randint(1, amount), self.chance.random() < 0.5
            sale.disputes.append((part, is_won))
            dispute = {"id": f"dp_{name}", "payment_intent": name, "charge": f"ch_{name}", "amount": part}
            self._tell_later("charge.dispute.funds_withdrawn", "dispute", status="needs_response", **dispute)
            if is_won:
                self._tell_later("charge.dispute.funds_reinstated", "dispute", status="won", **dispute)

    def _tell_later(self, kind: str, of: str, **fields: Any) -> None:
        self._later.append(event(kind, data={"object": {"object": of, "currency": "usd", **fields}}))
