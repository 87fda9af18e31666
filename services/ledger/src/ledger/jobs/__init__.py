"""What the worker does periodically."""
