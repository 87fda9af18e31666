"""The metrics of payments. Each of its processes exposes all of them; the API's stay at 0."""

from prometheus_client import Counter, Gauge

events_ignored = Counter("payments_events_ignored_total", "Events that changed nothing here, and why.", ["reason"])
paid_not_credited = Gauge(
    "payments_paid_not_credited", "Purchases paid more than 10 minutes ago that the ledger has told nothing of."
)
