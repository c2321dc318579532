"""How fast the ledger is on one hot tenant, and what bounds it: `python -m benchmarks.ledger`."""
