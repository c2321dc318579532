"""Use cases: what the RPCs and the workers do, step by step."""
