"""`python -m ledger reconcile --since TIME|DURATION [--grace DURATION] [--heal]`: compares Stripe with the books.

Exit code 0: nothing differs. 1: something differs; it says what. 2: nothing was proven. With `--heal` the gateway is
asked to publish again what the books lack: compare again a minute later.
"""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.core.reconciling import HEALABLE, Difference, Kind
from ledger.settings import ReconcileSettings
from ledger.stripe_gateway import StripeGaveNoAnswer, open_stripe_gateway
from ledger.workflows.reconcile import GRACE, Findings, NotComparable, reconcile
from shared.commands import run_to_end
from shared.database import open_engine
from shared.events import StripeObjectMissing
from shared.outbox import Outbox, OutboxEvent, StateMark

DIFFERENCES_SHOWN_MAX = 100
PUBLISHED_TOGETHER_MAX = 500

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DURATION = re.compile(r"(\d{1,6})([smhd])")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`since` (a duration or a time), `grace`, `heal`."""
    parser.add_argument(
        "--since",
        required=True,
        type=duration_or_time,
        help="what was made since: 30d, 12h, 90m, or 2026-09-01T12:00:00Z",
    )
    parser.add_argument("--grace", type=duration, default=GRACE, help="how long events may be on their way; default 5m")
    parser.add_argument("--heal", action="store_true", help="have what the books lack published again")


def duration(text: str) -> timedelta:
    """`90s`, `90m`, `12h` or `30d`. Raises ValueError, which argparse says."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration like 90m, 12h or 30d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def duration_or_time(text: str) -> timedelta | datetime:
    """A duration, or a time with its zone."""
    if _DURATION.fullmatch(text):
        return duration(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a duration like 30d nor a time like 2026-09-01T12:00:00Z"
        )
    return at.astimezone(UTC)


def report(findings: Findings) -> str:
    """What `reconcile` prints."""
    lines = [
        f"compared {findings.payments} payments, {findings.refunds} refunds and {findings.disputes} disputes "
        f"since {findings.since:%Y-%m-%dT%H:%M:%SZ}"
    ]
    found = findings.differences
    if not found:
        return "\n".join([*lines, "nothing differs"])
    counts = Counter(each.kind for each in found)
    lines.append(f"DIFFERENT: {len(found)}")
    lines += [f"  {kind.value}: {counts[kind]}" for kind in Kind if counts[kind]]
    in_order = sorted(found, key=lambda each: (list(Kind).index(each.kind), each.object_id))
    lines += [
        f"  {each.kind.value} {each.object_id}"
        + (f" of {each.payment_intent}" if each.object_id != each.payment_intent else "")
        + f": {each.detail}"
        for each in in_order[:DIFFERENCES_SHOWN_MAX]
    ]
    if len(found) > DIFFERENCES_SHOWN_MAX:
        lines.append(f"  and {len(found) - DIFFERENCES_SHOWN_MAX} more")
    return "\n".join(lines)


class _PublishedByWorkers:
    """This command does not connect to Kafka: a running worker publishes the outbox within seconds."""

    def submit(self, events: list[OutboxEvent], marks: list[StateMark]) -> None:
        return


async def heal(engine: AsyncEngine, differences: Sequence[Difference]) -> int:
    """Asks for each object that the books lack once, payments first, and returns how many there are."""
    lacking = [each for each in differences if each.kind in HEALABLE]
    asked = {each.object_id: each for each in sorted(lacking, key=lambda each: list(Kind).index(each.kind))}
    outbox, names = Outbox(_PublishedByWorkers()), list(asked)
    for start in range(0, len(names), PUBLISHED_TOGETHER_MAX):
        async with outbox.transaction(engine) as transaction:
            for name in names[start : start + PUBLISHED_TOGETHER_MAX]:
                kind = asked[name].kind
                transaction.publish(
                    StripeObjectMissing(
                        kind="payment_intent" if kind is Kind.PAYMENT_MISSING
                        else "dispute" if kind is Kind.DISPUTE_MISSING
                        else "refund",
                        object_id=name,
                        payment_intent=asked[name].payment_intent,
                        found_at=transaction.now,
                    )
                )  # fmt: skip
    return len(names)


def run(settings: ReconcileSettings, arguments: argparse.Namespace) -> int:
    """Compares, prints the report, heals if asked to, and returns the exit code."""

    async def work() -> int:
        url, keys = settings.database_url_worker.get_secret_value(), settings.metadata_signing_keys
        async with (
            open_engine(url, application_name="ledger-reconcile", start_timeout_s=settings.start_timeout_s) as engine,
            open_stripe_gateway(settings) as gateway,
        ):
            findings = await reconcile(
                engine, gateway, [key.get_secret_value() for key in keys], arguments.since, arguments.grace
            )
            print(report(findings))  # noqa: T201  # a command's answer
            if arguments.heal:
                asked = await heal(engine, findings.differences)
                print(f"asked the gateway for {asked} objects; compare again in a minute")  # noqa: T201
            return findings.exit_code

    return run_to_end("ledger", settings.log_level, work, (StripeGaveNoAnswer, NotComparable))
