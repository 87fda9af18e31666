"""Checks the three sentences of docs/architecture.md against Stripe's books (the simulator's) and our databases."""
