"""The journal of raw answers: on this machine's disk before they are in the database."""
