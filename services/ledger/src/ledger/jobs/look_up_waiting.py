"""Looks up PaymentIntents at Stripe whose refunds or disputes have waited for their credit for a day.

A PaymentIntent without our marker belongs to other business on the account, and its row is deleted. If it has our
marker and is paid, its event was lost: it is applied as the event would have been. The job may run in several workers
at once: what is found is applied under the usual locks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.core.commands import COMMAND_NAMES, OUTCOME_NAMES, NothingPosted, Posted
from ledger.repository.payment_intents import due_look_ups_query, resolve_look_ups
from ledger.stripe_events import command_of_payment_intent
from ledger.stripe_gateway import StripeAnswerUnfit, StripeGateway, StripeGaveNoAnswer
from ledger.workflows.apply_commands import apply_commands
from shared.logs import get_logger
from shared.outbox import Outbox
from shared.signed_metadata import has_marker
from shared.stripe_events import PaymentIntentView

log = get_logger()

#: Look-ups of one run, and how many of them are resolved together.
LOOK_UPS_MAX = 500
RESOLVED_TOGETHER_MAX = 50

_foreign = Counter(
    "ledger_foreign_payment_intents_total", "PaymentIntents with refunds or disputes that are not ours, dropped."
)
_found = Counter("ledger_found_payment_intents_total", "PaymentIntents of ours whose event had not come.")


async def look_up_waiting(
    engine: AsyncEngine, outbox: Outbox, gateway: StripeGateway, signing_keys: Sequence[str]
) -> None:
    """Looks up those that have waited longest. Ends early, with a warning, if Stripe does not answer."""
    async with outbox.transaction(engine) as transaction:
        due = list(await transaction.connection.scalars(due_look_ups_query(transaction.now, LOOK_UPS_MAX)))
    for start in range(0, len(due), RESOLVED_TOGETHER_MAX):
        result = await _look_up(gateway, due[start : start + RESOLVED_TOGETHER_MAX])
        for intent in result.paid:
            if not await _credit_payment(engine, outbox, intent, signing_keys):
                result.unfinished.append(intent.id)
        await _resolve(engine, outbox, result)
        if result.ended_early:
            return


@dataclass(slots=True)
class _LookUpResult:
    """What Stripe says of some PaymentIntents: not ours, ours and paid, or to be looked up again."""

    foreign: list[str] = field(default_factory=list[str])
    paid: list[PaymentIntentView] = field(default_factory=list[PaymentIntentView])
    unfinished: list[str] = field(default_factory=list[str])
    ended_early: bool = False


async def _look_up(gateway: StripeGateway, ids: Sequence[str]) -> _LookUpResult:
    result = _LookUpResult()
    for name in ids:
        try:
            intent = await gateway.payment_intent(name)
        except StripeAnswerUnfit as error:
            log.error("payment_intent_unreadable", payment_intent=name, reason=str(error))
            result.unfinished.append(name)
        except StripeGaveNoAnswer as error:
            log.warning("look_up_ended_early", reason=str(error))
            result.ended_early = True
            break
        else:
            if intent is None or not has_marker(intent.metadata):
                result.foreign.append(name)
            elif intent.status == "succeeded":
                result.paid.append(intent)
            else:
                result.unfinished.append(name)
    return result


async def _credit_payment(
    engine: AsyncEngine, outbox: Outbox, intent: PaymentIntentView, signing_keys: Sequence[str]
) -> bool:
    """Does what the event would have done; False if it is refused, as its event would have been."""
    command = command_of_payment_intent(intent, signing_keys)
    if command is None:
        return False
    async with outbox.transaction(engine) as transaction:
        [outcome] = await apply_commands(transaction, [command], transaction.now)
    if not isinstance(outcome, Posted | NothingPosted):
        log.error("payment_intent_refused", payment_intent=intent.id, outcome=OUTCOME_NAMES[type(outcome)])
        return False
    _found.inc()
    log.warning("payment_intent_found", payment_intent=intent.id, command=COMMAND_NAMES[type(command)])
    return True


async def _resolve(engine: AsyncEngine, outbox: Outbox, result: _LookUpResult) -> None:
    """Deletes foreign PaymentIntents and notes those to look up again, unless they have been credited meanwhile."""
    if not result.foreign and not result.unfinished:
        return
    async with outbox.transaction(engine) as transaction:
        dropped = await resolve_look_ups(
            transaction.connection, foreign=result.foreign, unfinished=result.unfinished, now=transaction.now
        )
    _foreign.inc(len(dropped))
    for each in dropped:
        log.info("foreign_payment_intent_dropped", payment_intent=each)
