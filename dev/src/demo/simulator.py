"""The simulator's control API, as the demo and the tests use it (`/_sim/docs` lists all of it)."""

from dataclasses import dataclass
from typing import Any

import httpx

from embedded.environment import SIMULATOR_SECRET_KEY


@dataclass(frozen=True, slots=True)
class Simulator:
    """What Stripe does not offer: losing and shuffling webhooks, and reading every charge at once."""

    url: str
    http: httpx.AsyncClient

    async def books(self) -> dict[str, Any]:
        """Every charge that succeeded, and the state of webhook deliveries."""
        return await self._get("/books")

    async def requests(self) -> list[dict[str, Any]]:
        """The requests that Stripe received, oldest first."""
        return await self._get("/requests")

    async def forget_requests(self) -> None:
        """Empties the log of `requests`."""
        (await self.http.delete(f"{self.url}/_sim/requests")).raise_for_status()

    async def lose_webhooks(self, event_type: str, count: int = 1) -> None:
        """The next `count` webhooks of the type are never sent."""
        await self._post("/webhooks/faults", {"kind": "drop", "event_type": event_type, "count": count})

    async def hold_webhooks(self) -> None:
        """Holds every webhook back until `release_webhooks`."""
        await self._post("/webhooks/faults", {"kind": "hold", "event_type": "*", "count": None})

    async def release_webhooks(self, *, copies: int = 1, shuffle: bool = True, seed: int | None = None) -> int:
        """Sends the webhooks that were held, each `copies` times; returns how many were sent."""
        await self.http.delete(f"{self.url}/_sim/webhooks/faults")
        released = await self._post("/webhooks/release", {"shuffle": shuffle, "copies": copies, "seed": seed})
        return int(released["sent"])

    async def enable_endpoint(self, *, enabled: bool) -> None:
        """Disables every endpoint, as Stripe does after days of failures, or enables them again. Events of
        the time between are never sent, nor listed as undelivered."""
        headers = {"Authorization": f"Bearer {SIMULATOR_SECRET_KEY}"}
        url = f"{self.url}/v1/webhook_endpoints"
        listed = (await self.http.get(url, headers=headers)).raise_for_status().json()
        for endpoint in listed["data"]:
            form = {"disabled": "false" if enabled else "true"}
            (await self.http.post(f"{url}/{endpoint['id']}", headers=headers, data=form)).raise_for_status()

    async def wait_for_webhooks(self, timeout_s: float = 60.0) -> bool:
        """Waits until no delivery is under way. Returns False if that takes longer than `timeout_s`."""
        settled = await self._post("/webhooks/settle", {"timeout_s": timeout_s}, timeout_s=timeout_s + 5)
        return bool(settled["settled"])

    async def fault(self, kind: str, path: str, **more: Any) -> None:
        """Sets a fault of the API: `error_after`, `drop_answer`, `hang`, …"""
        await self._post("/faults", {"kind": kind, "path": path, **more})

    async def _get(self, path: str) -> Any:
        response = await self.http.get(f"{self.url}/_sim{path}")
        response.raise_for_status()
        return response.json()

    async def _post(self, path: str, body: dict[str, Any], timeout_s: float = 10.0) -> Any:
        response = await self.http.post(f"{self.url}/_sim{path}", json=body, timeout=timeout_s)
        response.raise_for_status()
        return response.json()
