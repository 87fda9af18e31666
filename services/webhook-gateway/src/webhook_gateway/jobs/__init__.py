"""What the backfill process does periodically."""
