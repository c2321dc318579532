"""The provider's calls, what its answers look like, and what they prove."""
