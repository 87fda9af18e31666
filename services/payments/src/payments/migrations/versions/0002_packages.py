"""The packages that a new installation sells; larger ones are cheaper per credit.

A mark for each makes the first worker publish it. Row-level security of marks applies to the owner too, so the
migration lifts it for its transaction.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the packages and marks them for publishing."""
    op.execute(
        """
        INSERT INTO package (package_id, version, name, credits, price_minor, currency, active, expires_in_days) VALUES
            ('starter', 1, 'Starter', 1000, 1000, 'usd', true, NULL),
            ('growth', 1, 'Growth', 5500, 5000, 'usd', true, NULL),
            ('scale', 1, 'Scale', 12000, 10000, 'usd', true, NULL),
            ('starter-eur', 1, 'Starter', 1000, 950, 'eur', true, NULL),
            ('growth-eur', 1, 'Growth', 5500, 4750, 'eur', true, NULL),
            ('starter-jpy', 1, 'Starter', 1000, 1500, 'jpy', true, NULL)
        """
    )
    op.execute("ALTER TABLE outbox_mark NO FORCE ROW LEVEL SECURITY")
    op.execute(
        """
        INSERT INTO outbox_mark (tenant_id, topic, key, version, due_at)
        SELECT '', 'payments.catalog-changed', package_id, version, now() FROM package
        """
    )
    op.execute("ALTER TABLE outbox_mark FORCE ROW LEVEL SECURITY")
