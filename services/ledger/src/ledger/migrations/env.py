"""Runs the migrations on the connection that `ledger.migrate` has opened and locked."""

from alembic import context

from ledger.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
