"""The journal of provider responses: on this machine's disk before they are in the database."""
