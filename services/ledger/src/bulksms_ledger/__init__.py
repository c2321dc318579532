"""Credit accounts, subscriptions, reservations, entries."""
