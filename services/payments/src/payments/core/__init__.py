"""The decisions of payments: pure functions and values, no I/O, no clock, no ids made inside."""
