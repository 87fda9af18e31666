"""A tenant as the tests compare it between the model, the plan and PostgreSQL."""

from typing import NamedTuple


class TenantView(NamedTuple):
    """`grants`: what each has (free, held). `holds`: the status of each, and how many credits were captured."""

    balance: int
    held: int
    owed: int
    grants: dict[int, tuple[int, int]]
    holds: dict[str, tuple[str, int]]
