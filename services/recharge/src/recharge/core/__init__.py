"""The rules of recharge: pure functions and values. No I/O, no clock, and no ids made inside."""
