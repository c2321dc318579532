"""How fast: permits for provider requests, shared by all replicas through Redis."""
