"""Several steps over repository, Stripe and core, shared by routes, handlers and jobs."""
