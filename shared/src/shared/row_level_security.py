"""Row-level security, written once: who may see which rows is decided by PostgreSQL, not by a WHERE clause.

Every table with a tenant gets ENABLE and FORCE. `<service>_api` sees and writes the rows of `app.tenant_id` only,
`<service>_worker` all rows by a policy of its own; the owner has no policy, so a migration reads no data.
"""

from collections.abc import Iterable


def protect(table: str, service: str, *, api: Iterable[str], worker: Iterable[str] = ()) -> list[str]:
    """The statements that protect a table with a `tenant_id`. `api` and `worker` are the rights granted, such as
    SELECT; the worker always has SELECT, INSERT, UPDATE and DELETE unless others are named."""
    worker_rights = tuple(worker) or ("SELECT", "INSERT", "UPDATE", "DELETE")
    api_rights = tuple(api)
    statements = [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY {table}_worker ON {table} TO {service}_worker USING (true) WITH CHECK (true)",
        f"GRANT {', '.join(worker_rights)} ON {table} TO {service}_worker",
    ]
    if api_rights:
        own = "tenant_id = NULLIF(current_setting('app.tenant_id', true), '')"
        statements += [
            f"CREATE POLICY {table}_api ON {table} TO {service}_api USING ({own}) WITH CHECK ({own})",
            f"GRANT {', '.join(api_rights)} ON {table} TO {service}_api",
        ]
    return statements
