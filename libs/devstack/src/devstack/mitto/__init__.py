"""The Mitto simulator: a real HTTP server that is the ground truth of what was sent."""
