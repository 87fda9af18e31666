"""The archive's functions look for names in `pg_temp` last.

Where a search path does not name it, PostgreSQL looks into the caller's temporary schema first: whoever might make a
temporary table called `transfer` would have the owner's function run on it
(https://www.postgresql.org/docs/17/sql-createfunction.html, "Writing SECURITY DEFINER Functions Safely").
"""

from alembic import op

revision = "0002"
down_revision = "0001"

_FUNCTIONS = ("make_archive_partition(timestamptz)", "archive_transfers(text[], timestamptz, integer)")


def upgrade() -> None:
    """Changes the functions' settings alone."""
    for function in _FUNCTIONS:
        op.execute(f"ALTER FUNCTION {function} SET search_path = pg_catalog, public, pg_temp")
