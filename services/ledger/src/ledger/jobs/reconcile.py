"""Compares Stripe with the books periodically, and sets the metric of differences."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.core.reconciling import Kind
from ledger.stripe_gateway import StripeGateway, StripeGaveNoAnswer
from ledger.workflows.reconcile import NotComparable, reconcile
from shared.logs import get_logger
from shared.process import Job

log = get_logger()

TIMEOUT_S = 1_800.0
LOGGED_MAX = 100

_differences = Gauge(
    "ledger_reconcile_differences", "Differences between Stripe and the books when they were last compared.", ["kind"]
)
for _kind in Kind:
    _differences.labels(_kind.value)


def reconcile_job(
    engine: AsyncEngine, gateway: StripeGateway, signing_keys: Sequence[str], *, every_s: float, days: float
) -> Job:
    """Compares what was made in the last `days`, every `every_s`. If Stripe does not answer, only this
    run fails."""

    async def run() -> None:
        findings = await reconcile(engine, gateway, signing_keys, timedelta(days=days))
        counts = Counter(each.kind for each in findings.differences)
        for kind in Kind:
            _differences.labels(kind.value).set(counts[kind])
        for each in findings.differences[:LOGGED_MAX]:
            log.error("books_differ_from_stripe", kind=each.kind.value, object=each.object_id, detail=each.detail)
        log.info(
            "reconciled", payments=findings.payments, refunds=findings.refunds, disputes=findings.disputes,
            differences=len(findings.differences),
        )  # fmt: skip

    return Job(
        "reconcile", run, every_s=every_s, timeout_s=TIMEOUT_S, expected_errors=(StripeGaveNoAnswer, NotComparable)
    )
