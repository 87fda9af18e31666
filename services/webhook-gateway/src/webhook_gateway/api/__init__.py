"""Stripe's webhooks over HTTP."""
