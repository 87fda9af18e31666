"""The ledger's SQL. `batch` has what a batch of commands reads and writes; the other modules have queries by noun."""
