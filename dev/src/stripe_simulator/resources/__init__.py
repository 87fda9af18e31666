"""Stripe's objects and what each operation does to them; synchronous, so every operation is atomic."""
