"""Several steps over the repository, Stripe and the core, shared by routes, handlers, jobs and commands."""
