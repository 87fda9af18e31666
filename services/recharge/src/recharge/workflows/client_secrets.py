"""Fetches the client secret of an attempt that waits for its owner to authenticate it.

The secret is fetched from Stripe each time and stored nowhere. No transaction is open while Stripe is called.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncEngine

from recharge.core.answers import Answer, NoAnswer
from recharge.core.attempts import Attempt
from recharge.core.client_secret import Withheld, client_secret_in, waits_for_authentication
from recharge.repository.attempts import load_tries, read_attempt
from recharge.stripe_gateway import StripeGateway
from shared.database import tenant_transaction
from shared.logs import get_logger

log = get_logger()

#: Includes the wait for a free slot. A person is looking at a page meanwhile.
ANSWERED_WITHIN_S = 10.0
#: How many secrets one process fetches at a time, however often it is asked: its share of Stripe's rate limit.
AT_ONCE = 4

_outcomes = Counter("recharge_client_secrets_total", "Client secrets asked for.", ["outcome"])


class UnknownAttempt(Exception):
    """The tenant has no such attempt."""


class ClientSecretWithheld(Exception):
    """The client secret is not returned, for this reason."""

    def __init__(self, reason: Withheld) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FetchedSecret:
    """The client secret of an attempt, and the card to confirm it with: the one that was tried last."""

    attempt: Attempt
    payment_intent: str
    payment_method: str | None
    client_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientSecrets:
    """Fetches client secrets from Stripe, a few at a time."""

    gateway: StripeGateway
    #: Any of them may have signed.
    signing_keys: Sequence[str]
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def fetch(self, engine: AsyncEngine, tenant: str, name: str) -> FetchedSecret:
        """The secret of this tenant's attempt. Raises `UnknownAttempt` or `ClientSecretWithheld`."""
        attempt, _card = await _read(engine, tenant, name)
        if not waits_for_authentication(attempt):
            raise _withheld(Withheld.NOT_WAITING)
        answer = await self._retrieve(attempt)
        client_secret = client_secret_in(attempt, answer, self.signing_keys)
        if isinstance(client_secret, Withheld):
            log.warning("client_secret_withheld", tenant=tenant, attempt=name, reason=client_secret.value)
            raise _withheld(client_secret)
        after, card = await _read(engine, tenant, name)
        if not waits_for_authentication(after):
            raise _withheld(Withheld.NOT_WAITING)
        assert after.payment_intent is not None
        _outcomes.labels("handed_out").inc()
        log.info("client_secret_handed_out", tenant=tenant, attempt=name, payment_intent=after.payment_intent)
        return FetchedSecret(after, after.payment_intent, card, client_secret)

    async def _retrieve(self, attempt: Attempt) -> Answer:
        assert attempt.payment_intent is not None
        try:
            async with asyncio.timeout(ANSWERED_WITHIN_S), self.slots:
                return await self.gateway.retrieve(attempt.payment_intent)
        except TimeoutError:
            return NoAnswer("time_out")


async def _read(engine: AsyncEngine, tenant: str, name: str) -> tuple[Attempt, str | None]:
    """The attempt, and the card that it has tried last."""
    async with tenant_transaction(engine, tenant) as connection:
        attempt = await read_attempt(connection, tenant, name)
        tries = (await load_tries(connection, [attempt]))[name] if attempt is not None else ()
    if attempt is None:
        raise UnknownAttempt
    return attempt, tries[-1].payment_method if tries else None


def _withheld(reason: Withheld) -> ClientSecretWithheld:
    _outcomes.labels(reason.value).inc()
    return ClientSecretWithheld(reason)
