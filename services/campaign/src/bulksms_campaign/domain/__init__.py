"""Values and rules of the campaign service: pure, no waiting, no outside world."""
