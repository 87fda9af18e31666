"""What an operator runs once: each module has a `run` that returns the exit code."""
