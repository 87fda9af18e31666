"""What a ledger shows of a tenant: the shape in which the model, the plan and PostgreSQL are compared."""

from typing import NamedTuple


class TenantView(NamedTuple):
    """`grants`: what each has (free, held). `holds`: how each stands, and what was captured of it."""

    balance: int
    held: int
    owed: int
    grants: dict[int, tuple[int, int]]
    holds: dict[str, tuple[str, int]]
