"""The catalog as payments publishes it."""

from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from recharge.repository.rows import write_rows
from shared.events import CreditPackage

_SAVE_PACKAGES = text("""
    INSERT INTO package AS mine (package, version, package_event)
    SELECT package, version, package_event
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS new (package text, version bigint, package_event jsonb)
    ORDER BY package
    ON CONFLICT (package) DO UPDATE SET version = excluded.version, package_event = excluded.package_event
    WHERE mine.version < excluded.version
    RETURNING package
""")


async def save_packages(connection: AsyncConnection, packages: Iterable[CreditPackage]) -> list[str]:
    """Keeps the newest version of each package; returns the packages that changed."""
    newest: dict[str, CreditPackage] = {}
    for package in packages:
        if package.package not in newest or newest[package.package].version < package.version:
            newest[package.package] = package
    rows = [{"package": each.package, "version": each.version, "package_event": each} for each in newest.values()]
    return [row.package for row in await write_rows(connection, _SAVE_PACKAGES, rows)]
