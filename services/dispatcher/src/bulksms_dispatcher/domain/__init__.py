"""Values and rules of the dispatcher: pure, no waiting, no outside world."""
