"""What works by itself: senders, reaper, outbox, wake-ups, heartbeat."""
