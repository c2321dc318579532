"""The only SQL of the ledger."""
