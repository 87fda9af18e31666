"""Those who call the ledger's API in a soak."""

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
    """A kill -9, and what was unfinished then: requests without an answer, or facts that were not in the books."""

    victim: str
    at: float
    asked: frozenset[int] = frozenset()
    lost: int = 0


@dataclass(slots=True)
class Callers:
    """Ask the API for everything it does, and ask again whatever it did not answer."""

    http: httpx.AsyncClient
    chance: random.Random
    expected: Expected
    may_ask: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: bool = False
    answers: int = 0
    asked_again: int = 0
    in_flight: set[int] = field(default_factory=set[int])
    kills: list[Kill] = field(default_factory=list[Kill])
    _numbers: int = 0

    def _name(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}-{self._numbers}"

    async def ask(self, method: str, path: str, body: dict[str, Any], scope: Scope) -> httpx.Response:
        """The answer, however often it takes. Only 5xx and a broken connection are no answer."""
        while True:
            await self.may_ask.wait()
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
                    kill.lost += number in kill.asked
            finally:
                self.in_flight.discard(number)
            self.asked_again += 1
            await asyncio.sleep(0)

    async def run(self) -> None:
        while not self.stopped:
            act = self.chance.choices(
                (self._debit, self._batch, self._hold, self._promote, self._adjust), weights=(10, 3, 4, 1, 1)
            )[0]
            await act()
            await asyncio.sleep(PAUSE_S)

    def _new_debit(self) -> dict[str, Any]:
        return {
            "tenantId": self.chance.choice(self.expected.tenants),
            "reference": self._name("debit"),
            "credits": self.chance.randint(1, 20),
            "purpose": self.chance.choice(("chat", "search", "")),
            "overdraft": self.chance.choice(("reject", "allow")),
        }

    def _debited(self, debit: dict[str, Any], answer: dict[str, Any]) -> None:
        key = debit["tenantId"], "product", debit["reference"]
        if key not in self.expected.entries:
            self.expected.post(*key, -debit["credits"])
        self.expected.answered(key, answer["balanceVersion"])

    async def _debit(self) -> None:
        debit = self._new_debit()
        for _ in range(self.chance.choice((1, 1, 1, 2))):
            response = await self.ask("POST", "/debits", debit, Scope.CREDITS_DEBIT_ANY)
            if response.status_code == 402:
                return
            assert response.status_code == 200, response.text
            self._debited(debit, response.json())

    async def _batch(self) -> None:
        debits = [self._new_debit() for _ in range(self.chance.randint(2, 6))]
        body = {"mode": self.chance.choice(("each", "all")), "debits": debits}
        response = await self.ask("POST", "/debits/batch", body, Scope.CREDITS_DEBIT_ANY)
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
            self.chance.choice(self.expected.tenants),
            self._name("hold"),
            self.chance.randint(1, 40),
        )
        body = {"tenantId": tenant, "reference": name, "credits": credits, "expiresInS": 86_400}
        response = await self.ask("POST", "/holds", body, Scope.CREDITS_DEBIT_ANY)
        if response.status_code == 402:
            return
        assert response.status_code == 200, response.text
        key = self.expected.post(tenant, "product", name, 0, moved=credits)
        self.expected.answered(key, response.json()["balanceVersion"])
        self.expected.held[tenant] += credits
        if self.chance.random() < 0.1:
            return  # it stays open
        used = self.chance.choice((0, credits, self.chance.randint(1, credits), credits + self.chance.randint(1, 10)))
        path, body = f"/holds/{name}/release", {"tenantId": tenant}
        if used:
            path, body = f"/holds/{name}/capture", body | {"credits": used, "overdraft": "allow"}
        response = await self.ask("POST", path, body, Scope.CREDITS_DEBIT_ANY)
        if response.status_code == 402:
            return
        assert response.status_code == 200, response.text
        assert response.json()["capturedCredits"] == used
        self.expected.end_hold(tenant, name, credits, used)

    async def _promote(self) -> None:
        await self._operate("promotions", self.chance.randint(1, 50), {})

    async def _adjust(self) -> None:
        await self._operate("adjustments", self.chance.choice((-10, -3, 5, 20)), {"reason": "a mistake"})

    async def _operate(self, kind: str, credits: int, more: dict[str, Any]) -> None:
        tenant, name = self.chance.choice(self.expected.tenants), self._name(kind)
        body = {"tenantId": tenant, "reference": name, "credits": credits, **more}
        response = await self.ask("POST", f"/{kind}", body, Scope.OPERATOR)
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
