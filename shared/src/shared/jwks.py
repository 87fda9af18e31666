"""The signing keys of the token issuer (a JWK set, RFC 7517), fetched in the background.

A known key is used without waiting, whether or not the issuer answers. A token with an unknown key triggers a fetch, at
most one in `REFETCH_INTERVAL_S`, and waits for it for at most `UNKNOWN_KEY_WAIT_S`. If the key is still unknown, it is
refused without a fetch for `UNKNOWN_KEY_CACHED_S`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import jwt

from shared.logs import get_logger

log = get_logger()

#: Also how long a withdrawn key is still accepted, plus the duration of a fetch, while the issuer answers.
REFRESH_INTERVAL_S = 60.0
#: How long keys are accepted after the last successful fetch, while the issuer does not answer.
KEYS_MAX_AGE_S = 3_600.0
FETCH_TIMEOUT_S = 5.0
REFETCH_INTERVAL_S = 10.0
#: How long a request with an unknown key waits for a fetch: the issuer may have just created the key.
UNKNOWN_KEY_WAIT_S = 0.5
UNKNOWN_KEY_CACHED_S = 10.0
UNKNOWN_KEYS_MAX = 1_000


class UnknownKey(Exception):
    """The issuer's key set does not contain the key."""


class KeysUnavailable(Exception):
    """The issuer's keys have never been fetched, or the last fetch is more than `KEYS_MAX_AGE_S` ago."""


class IssuerKeys:
    """The issuer's keys, by `kid`. An instance belongs to one event loop; `close` ends its task."""

    def __init__(self, url: str) -> None:
        self._client = jwt.PyJWKClient(url, cache_keys=False, cache_jwk_set=False, timeout=int(FETCH_TIMEOUT_S))
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at: float | None = None
        self._fetch_started_at: float | None = None
        self._unknown_until: OrderedDict[str, float] = OrderedDict()
        self._fetch_requested = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the task that fetches the keys, in the running event loop. `key` starts it too if it does not run."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep_fetching(), name="issuer-keys")

    async def close(self) -> None:
        """Ends the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def key(self, kid: str) -> jwt.PyJWK:
        """Returns the key within `UNKNOWN_KEY_WAIT_S`. Raises `UnknownKey` or `KeysUnavailable`."""
        self.start()
        now = asyncio.get_running_loop().time()
        if self._is_fresh(now) and kid in self._keys:
            return self._keys[kid]
        if self._unknown_until.get(kid, now) > now:
            raise UnknownKey
        if self._may_fetch(now):
            self._idle.clear()
            self._fetch_requested.set()
        await self._wait_for_fetch()
        now = asyncio.get_running_loop().time()
        if not self._is_fresh(now):
            raise KeysUnavailable
        if kid in self._keys:
            return self._keys[kid]
        self._cache_unknown(kid, now)
        raise UnknownKey

    def _is_fresh(self, now: float) -> bool:
        return self._fetched_at is not None and now - self._fetched_at <= KEYS_MAX_AGE_S

    def _may_fetch(self, now: float) -> bool:
        return (
            self._fetch_started_at is not None
            and self._idle.is_set()
            and now - self._fetch_started_at >= REFETCH_INTERVAL_S
        )

    def _cache_unknown(self, kid: str, now: float) -> None:
        self._unknown_until[kid] = now + UNKNOWN_KEY_CACHED_S
        while len(self._unknown_until) > UNKNOWN_KEYS_MAX:
            self._unknown_until.popitem(last=False)

    async def _wait_for_fetch(self) -> None:
        try:
            async with asyncio.timeout(UNKNOWN_KEY_WAIT_S):
                await self._idle.wait()
        except TimeoutError:
            return

    async def _keep_fetching(self) -> None:
        while True:
            self._fetch_requested.clear()
            self._idle.clear()
            self._fetch_started_at = asyncio.get_running_loop().time()
            await self._fetch()
            self._idle.set()
            try:
                async with asyncio.timeout(REFRESH_INTERVAL_S):
                    await self._fetch_requested.wait()
            except TimeoutError:
                continue

    async def _fetch(self) -> None:
        """Fetches the key set in a thread. If it hangs, only this task waits for it, and no other thread starts."""
        try:
            keys = await asyncio.to_thread(self._client.get_signing_keys)
        except (jwt.PyJWTError, OSError, ValueError) as error:
            log.warning("issuer_keys_not_fetched", error=type(error).__name__)
            return
        self._store(keys)

    def _store(self, keys: Sequence[Any]) -> None:
        self._keys = {key.key_id: key for key in keys if key.key_id}
        self._fetched_at = asyncio.get_running_loop().time()
        for kid in self._keys.keys() & self._unknown_until.keys():
            del self._unknown_until[kid]
