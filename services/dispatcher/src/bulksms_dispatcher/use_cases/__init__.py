"""What is done for a caller or a worker, in order."""
