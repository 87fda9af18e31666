"""A stand-in for Stripe's servers that keeps their rules, for tests, demos and crash experiments."""
