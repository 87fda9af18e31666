"""The HTTP side of the API: authentication, parameters, idempotency, faults, answers."""
