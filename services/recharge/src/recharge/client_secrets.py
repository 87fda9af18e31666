"""Hands out the client secret of an attempt that waits for its owner to authenticate.

It is fetched from Stripe each time and kept nowhere. No transaction is open while Stripe is asked.
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
from recharge.schemas import ClientSecret
from recharge.stripe_gateway import StripeGateway
from shared.database import tenant_transaction
from shared.logs import get_logger
from shared.problems import Problem

log = get_logger()

#: Includes the wait for a free slot: a person is looking at a page meanwhile.
ANSWERED_WITHIN_S = 10.0
#: A process's share of Stripe's limit, however often it is asked.
AT_ONCE = 4
NO_STORE = {"Cache-Control": "no-store"}
_DETAILS = {
    Withheld.NOT_WAITING: "This charge does not wait for authentication. GET /api/recharge/attempts shows its state.",
    Withheld.NOT_CONFIRMABLE: "Stripe takes no authentication for this charge any more. Its state will follow shortly.",
    Withheld.NOT_PROVEN: "What Stripe shows is not what this charge is for. The operator is told.",
    Withheld.UNAVAILABLE: "Stripe does not answer. Ask again in a moment.",
    Withheld.MISCONFIGURED: "Payments are not set up correctly; the operator is told.",
}
_RETRY_AFTER_S = {Withheld.UNAVAILABLE: 5, Withheld.MISCONFIGURED: 60}

_outcomes = Counter("recharge_client_secrets_total", "Client secrets asked for.", ["outcome"])


@dataclass(frozen=True, slots=True)
class ClientSecrets:
    """Asks Stripe for client secrets, a few at a time."""

    gateway: StripeGateway
    #: Any of them may have signed.
    signing_keys: Sequence[str]
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def of(self, engine: AsyncEngine, tenant: str, name: str) -> ClientSecret:
        """The secret of this tenant's attempt. Raises `Problem`: 404, 409 where it does not wait, 503."""
        attempt, _card = await _read(engine, tenant, name)
        if not waits_for_authentication(attempt):
            raise _problem(Withheld.NOT_WAITING)
        answer = await self._ask(attempt)
        said = client_secret_in(attempt, answer, self.signing_keys)
        if isinstance(said, Withheld):
            log.warning("client_secret_withheld", tenant=tenant, attempt=name, reason=said.value)
            raise _problem(said)
        after, card = await _read(engine, tenant, name)
        if not waits_for_authentication(after):
            raise _problem(Withheld.NOT_WAITING)
        assert after.payment_intent is not None
        _outcomes.labels("handed_out").inc()
        log.info("client_secret_handed_out", tenant=tenant, attempt=name, payment_intent=after.payment_intent)
        return ClientSecret(
            attempt=name,
            payment_intent=after.payment_intent,
            payment_method=card,
            client_secret=said,
            amount_minor=after.amount_minor,
            currency=after.currency,
        )

    async def _ask(self, attempt: Attempt) -> Answer:
        assert attempt.payment_intent is not None
        try:
            async with asyncio.timeout(ANSWERED_WITHIN_S), self.turns:
                return await self.gateway.retrieve(attempt.payment_intent)
        except TimeoutError:
            return NoAnswer("time_out")


async def _read(engine: AsyncEngine, tenant: str, name: str) -> tuple[Attempt, str | None]:
    """The attempt, and the card that it has tried last."""
    async with tenant_transaction(engine, tenant) as connection:
        attempt = await read_attempt(connection, tenant, name)
        tries = (await load_tries(connection, [attempt]))[name] if attempt is not None else ()
    if attempt is None:
        detail = "There is no such attempt. GET /api/recharge/attempts lists them."
        raise Problem(404, "unknown_attempt", detail, dict(NO_STORE))
    return attempt, tries[-1].payment_method if tries else None


def _problem(withheld: Withheld) -> Problem:
    _outcomes.labels(withheld.value).inc()
    retry_after_s = _RETRY_AFTER_S.get(withheld)
    headers = dict(NO_STORE) if retry_after_s is None else {**NO_STORE, "Retry-After": str(retry_after_s)}
    return Problem(409 if retry_after_s is None else 503, withheld.value, _DETAILS[withheld], headers)
