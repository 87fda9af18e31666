"""Who may ask what, as dependencies of routes."""

from typing import Annotated

from fastapi import Depends

from shared.auth import Principal, Scope, requires
from shared.problems import Problem

Reader = Annotated[Principal, Depends(requires(Scope.BILLING_READ))]
Debitor = Annotated[Principal, Depends(requires(Scope.CREDITS_DEBIT, Scope.CREDITS_DEBIT_ANY))]
Operator = Annotated[Principal, Depends(requires(Scope.OPERATOR))]


def debited_tenant(principal: Principal, named: str | None) -> str:
    """Whose credits the caller may use: a product's token names a tenant, any other has its own."""
    if Scope.CREDITS_DEBIT_ANY in principal.scopes and principal.tenant is None:
        if named is None:
            raise Problem(422, "tenant_missing", "This token serves every tenant: name one in `tenantId`.")
        return named
    if named is not None and named != principal.own_tenant:
        raise Problem(403, "foreign_tenant", "This token debits its own tenant only. Leave `tenantId` out.")
    return principal.own_tenant
