"""The rules of payments: pure functions and values. They do no I/O, read no clock and make no ids."""
