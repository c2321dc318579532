"""Values and rules of the ledger: pure, without waiting and without an outside world."""
