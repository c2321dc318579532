"""Steady traffic for as long as you like, and whether anything was lost, sent twice, or kept growing."""
