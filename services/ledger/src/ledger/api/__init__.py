"""The HTTP API: routes, their bodies and their dependencies."""
