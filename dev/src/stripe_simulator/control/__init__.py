"""The control API under /_sim: faults, time, authentication, disputes, and the books."""
