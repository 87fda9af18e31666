"""All SQL of recharge, set-based. Callers begin and end the transactions."""
