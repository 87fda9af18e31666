"""The SQL, one module per noun. Functions take an open connection; their caller begins and ends the transaction.

To avoid deadlocks, every transaction locks in the same order: idempotency keys, then cards (`payment_method_lock`),
then profiles, each sorted. A tenant's other rows are written only while its profile is locked.
"""
