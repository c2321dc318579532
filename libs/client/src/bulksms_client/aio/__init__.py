"""The client for asyncio programs; `sync` is made from it."""
