"""The load on the ledger's API in a soak."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from embedded.environment import DEVELOPMENT_JWT_SECRET
from shared.auth import Scope, mint_development_token

from .soak_expected import Expected

PAUSE_S = 0.01


@dataclass(slots=True)
class Kill:
    """A kill -9, and what was unfinished then: requests without an answer, or usage records without a transfer."""

    victim: str
    at: float
    in_flight: frozenset[int] = frozenset()
    lost: int = 0


@dataclass(slots=True)
class ApiLoad:
    """Sends requests to every route that posts, and repeats each until it is answered."""

    http: httpx.AsyncClient
    rng: random.Random
    expected: Expected
    may_send: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: bool = False
    answers: int = 0
    retries: int = 0
    in_flight: set[int] = field(default_factory=set[int])
    kills: list[Kill] = field(default_factory=list[Kill])
    _numbers: int = 0

    def _name(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}-{self._numbers}"

    async def request(self, method: str, path: str, body: dict[str, Any], scope: Scope) -> httpx.Response:
        """The answer, after as many attempts as it takes. 5xx and a broken connection are no answer."""
        while True:
            await self.may_send.wait()
            self._numbers += 1
            number = self._numbers
            self.in_flight.add(number)
            try:
                response = await self.http.request(method, f"/api/ledger{path}", json=body, headers=headers(scope))
                if response.status_code < 500:
                    self.answers += 1
                    return response
            except httpx.TransportError:
                for kill in self.kills:
                    kill.lost += number in kill.in_flight
            finally:
                self.in_flight.discard(number)
            self.retries += 1
            await asyncio.sleep(0)

    async def run(self) -> None:
        while not self.stopped:
            action = self.rng.choices(
                (self._debit, self._batch, self._hold, self._promote, self._adjust), weights=(10, 3, 4, 1, 1)
            )[0]
            await action()
            await asyncio.sleep(PAUSE_S)

    def _new_debit(self) -> dict[str, Any]:
        return {
            "tenantId": self.rng.choice(self.expected.tenants),
            "reference": self._name("debit"),
            "credits": self.rng.randint(1, 20),
            "purpose": self.rng.choice(("chat", "search", "")),
            "overdraft": self.rng.choice(("reject", "allow")),
        }

    def _debited(self, debit: dict[str, Any], answer: dict[str, Any]) -> None:
        key = debit["tenantId"], "product", debit["reference"]
        if key not in self.expected.entries:
            self.expected.post(*key, -debit["credits"])
        self.expected.answered(key, answer["balanceVersion"])

    async def _debit(self) -> None:
        debit = self._new_debit()
        for _ in range(self.rng.choice((1, 1, 1, 2))):
            response = await self.request("POST", "/debits", debit, Scope.CREDITS_DEBIT_ANY)
            if response.status_code == 402:
                return
            assert response.status_code == 200, response.text
            self._debited(debit, response.json())

    async def _batch(self) -> None:
        debits = [self._new_debit() for _ in range(self.rng.randint(2, 6))]
        body = {"mode": self.rng.choice(("each", "all")), "debits": debits}
        response = await self.request("POST", "/debits/batch", body, Scope.CREDITS_DEBIT_ANY)
        if response.status_code == 409:
            assert response.json()["code"] == "batch_refused", response.text
            return
        assert response.status_code == 200, response.text
        for debit, result in zip(debits, response.json()["results"], strict=True):
            if result.get("debit"):
                self._debited(debit, result["debit"])
            else:
                assert result["problem"]["status"] == 402, result

    async def _hold(self) -> None:
        tenant, name, credits = (
            self.rng.choice(self.expected.tenants),
            self._name("hold"),
            self.rng.randint(1, 40),
        )
        body = {"tenantId": tenant, "reference": name, "credits": credits, "expiresInS": 86_400}
        response = await self.request("POST", "/holds", body, Scope.CREDITS_DEBIT_ANY)
        if response.status_code == 402:
            return
        assert response.status_code == 200, response.text
        key = self.expected.post(tenant, "product", name, 0, moved=credits)
        self.expected.answered(key, response.json()["balanceVersion"])
        self.expected.held[tenant] += credits
        if self.rng.random() < 0.1:
            return  # it stays open
        used = self.rng.choice((0, credits, self.rng.randint(1, credits), credits + self.rng.randint(1, 10)))
        path, body = f"/holds/{name}/release", {"tenantId": tenant}
        if used:
            path, body = f"/holds/{name}/capture", body | {"credits": used, "overdraft": "allow"}
        response = await self.request("POST", path, body, Scope.CREDITS_DEBIT_ANY)
        if response.status_code == 402:
            return
        assert response.status_code == 200, response.text
        assert response.json()["capturedCredits"] == used
        self.expected.end_hold(tenant, name, credits, used)

    async def _promote(self) -> None:
        await self._operate("promotions", self.rng.randint(1, 50), {})

    async def _adjust(self) -> None:
        await self._operate("adjustments", self.rng.choice((-10, -3, 5, 20)), {"reason": "a mistake"})

    async def _operate(self, kind: str, credits: int, more: dict[str, Any]) -> None:
        tenant, name = self.rng.choice(self.expected.tenants), self._name(kind)
        body = {"tenantId": tenant, "reference": name, "credits": credits, **more}
        response = await self.request("POST", f"/{kind}", body, Scope.OPERATOR)
        assert response.status_code == 200, response.text
        key = self.expected.post(tenant, "operator", name, credits)
        self.expected.answered(key, response.json()["balanceVersion"])


def headers(scope: Scope) -> dict[str, str]:
    if scope not in _tokens:
        _tokens[scope] = mint_development_token(
            DEVELOPMENT_JWT_SECRET, subject="soak", tenant=None, scopes=(scope,), expires_at=int(time.time()) + 7_200
        )
    return {"Authorization": f"Bearer {_tokens[scope]}"}


_tokens: dict[Scope, str] = {}
