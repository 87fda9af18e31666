"""Which tenants' orders Stripe has refused lately, and the breakers of single packages and currencies."""

from alembic import op

revision = "0010"
down_revision = "0004"

STATEMENTS = (
    """
    ALTER TABLE profile ADD COLUMN refused_at timestamptz, ADD COLUMN refused_package text,
        ADD COLUMN refused_currency text
    """,
    "CREATE INDEX profile_refused_at ON profile (refused_at) WHERE refused_at IS NOT NULL",
    "CREATE INDEX attempt_try_succeeded ON attempt_try (answered_at) WHERE outcome = 'succeeded'",
    "ALTER TABLE breaker ADD COLUMN failed_tenants text[] NOT NULL DEFAULT '{}'",
    """
    CREATE TABLE scoped_breaker (
        scope text NOT NULL CHECK (scope IN ('package', 'currency')),
        name text NOT NULL,
        open_until timestamptz NOT NULL,
        failures int NOT NULL,
        is_probing boolean NOT NULL DEFAULT false,
        failed_tenants text[] NOT NULL,
        PRIMARY KEY (scope, name)
    )
    """,
    "GRANT SELECT, INSERT, UPDATE, DELETE ON scoped_breaker TO recharge_worker",
)


def upgrade() -> None:
    """The version before has one breaker for everything and goes on with that."""
    for statement in STATEMENTS:
        op.execute(statement)
