"""Alembic's migrations: forward-only, each safe while the version before it runs."""
