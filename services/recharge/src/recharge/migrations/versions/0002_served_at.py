"""When a need was last served by an automatic charge: what its owner has done since asks for another one."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the column. The version before does not write it: then only the balance decides, as it did."""
    op.execute("ALTER TABLE balance ADD COLUMN served_at timestamptz")
