"""The whole suite on one machine: embedded PostgreSQL and Valkey, the services, the Mitto simulator."""
