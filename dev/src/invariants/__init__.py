"""Checks the three invariants (README.md) against Stripe's charges, as the simulator lists them, and our databases."""
