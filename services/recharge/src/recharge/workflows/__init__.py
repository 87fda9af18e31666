"""Carrying attempts on: who is due, what to ask Stripe, and writing the answer down."""
