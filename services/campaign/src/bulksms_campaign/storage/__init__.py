"""Storage: the tables and the only SQL of the service."""
