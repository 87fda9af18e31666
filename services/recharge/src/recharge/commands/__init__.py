"""What an operator runs once."""
