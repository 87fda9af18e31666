"""Alembic migrations, forward-only. `python -m payments migrate` runs them as the owner."""
