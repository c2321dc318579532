"""What is done for a caller, in order."""
