"""What works by itself: senders, reaper, outbox, signals, heartbeat."""
