"""Several steps over repository, Stripe and core, shared by handlers, jobs, routes and the executor."""
