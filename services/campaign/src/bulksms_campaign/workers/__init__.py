"""Workers: what goes on without a caller."""
