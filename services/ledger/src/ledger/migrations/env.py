"""Runs the migrations on the connection that `shared.migrations` has opened and locked."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
