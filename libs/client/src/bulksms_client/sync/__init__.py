"""The blocking client, made from `aio`."""

# Made by make_sync.py from aio/__init__.py: change that one.
