"""The rules of the ledger: pure functions and values. Nothing here does I/O, reads a clock or makes ids."""
