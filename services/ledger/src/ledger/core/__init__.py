"""The decisions of the ledger: pure functions and values, no I/O, no clock, no ids made inside."""
