"""The routes, one module per noun with the bodies of its requests and responses."""
