"""What decides, without I/O: signatures, records, rebuilt events."""
