"""The engine: who is decided together, and the one transaction that decides them."""
