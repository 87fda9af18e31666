"""Which tenants have a grant or a hold whose time is over."""

from datetime import datetime

from sqlalchemy import CompoundSelect, select, text, union_all

from ledger.repository.tables import credit_grant, hold

DUE_TENANTS_MAX = 500


def due_tenants_query(now: datetime) -> CompoundSelect[str]:
    """Some tenants with a grant or a hold that is due."""
    of_grants = select(credit_grant.c.tenant_id).where(
        ~credit_grant.c.spent,
        credit_grant.c.expires_at.is_not(None),
        credit_grant.c.expires_at <= now,
        credit_grant.c.remaining > credit_grant.c.paid_by_others,
    )
    of_holds = select(hold.c.tenant_id).where(hold.c.status == text("'open'"), hold.c.expires_at <= now)
    return union_all(of_grants.limit(DUE_TENANTS_MAX), of_holds.limit(DUE_TENANTS_MAX))
