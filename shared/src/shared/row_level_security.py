"""Row-level security: PostgreSQL enforces which tenant's rows a connection sees, instead of WHERE clauses.

It is enabled and forced for every table with a `tenant_id`. The role `<service>_api` sees and writes only the rows of
`app.tenant_id`. The role `<service>_worker` has a policy for all rows. The owner has none, so migrations see no rows.
"""

from collections.abc import Iterable


def protect(table: str, service: str, *, api: Iterable[str], worker: Iterable[str] = ()) -> list[str]:
    """Returns the statements that enable row-level security for a table with a `tenant_id`.

    `api` and `worker` are the privileges to grant, such as SELECT. The default for `worker` is SELECT, INSERT, UPDATE
    and DELETE.
    """
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
