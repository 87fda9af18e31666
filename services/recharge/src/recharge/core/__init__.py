"""The decisions of recharge: pure, no I/O, no clock, no ids made inside."""
