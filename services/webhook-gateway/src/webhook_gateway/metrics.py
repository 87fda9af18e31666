"""The metrics of the gateway. Each of its processes exposes all of them; those of the other process stay at 0."""

from prometheus_client import Counter, Gauge, Histogram

webhooks = Counter("gateway_webhooks_total", "Webhooks answered.", ["outcome"])
webhooks_published = webhooks.labels("published")
webhooks_not_taken = webhooks.labels("type_not_taken")
webhooks_of_other_accounts = webhooks.labels("other_account")
webhook_seconds = Histogram(
    "gateway_webhook_seconds",
    "From a webhook's head to its answer.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
webhooks_in_flight = Gauge("gateway_webhooks_in_flight", "Webhooks being received or published now.")
publishing = Gauge("gateway_publishing", "Events that wait for Kafka's acknowledgement now.")

backfill_events = Counter("gateway_backfill_events_total", "Events that no webhook brought.", ["outcome"])
for _outcome in ("published", "malformed"):  # exported from the start, so that the first one is an increase
    backfill_events.labels(_outcome)

healed_objects = Counter(
    "gateway_healed_objects_total", "Objects that the books lacked, by what became of them.", ["outcome"]
)
for _outcome in ("published", "not_at_stripe", "nothing_to_tell", "unreadable"):
    healed_objects.labels(_outcome)
