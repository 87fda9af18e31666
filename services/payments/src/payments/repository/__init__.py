"""The SQL, by noun. Functions take an open connection; who begins the transaction ends it.

Locks are taken in one order everywhere, so that nobody waits in a circle: idempotency keys, then cards' locks
(`payment_method_lock`), then profiles, each sorted; a tenant's other rows are written under its profile's lock only.
"""
