"""Peers: the other services this one calls."""
