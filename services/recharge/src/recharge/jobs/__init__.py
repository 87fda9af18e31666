"""What runs periodically."""
