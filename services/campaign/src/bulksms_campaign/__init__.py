"""Contacts, audiences, campaigns, recipients and their status, counters, status history."""
