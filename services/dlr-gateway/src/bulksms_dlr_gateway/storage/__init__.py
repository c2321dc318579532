"""The spool's SQLite file: its tables and the only SQL of the service."""
