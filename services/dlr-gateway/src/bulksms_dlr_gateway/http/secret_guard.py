"""Who may report: a shared secret, two of them during a rotation."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from hashlib import sha256

__all__ = ["SecretGuard"]


class SecretGuard:
    """Compares in constant time. Digests are compared, so that not even a secret's length shows."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._digests = tuple(sha256(secret.encode()).digest() for secret in secrets)
        if not self._digests:
            raise ValueError("no secret configured: set DLR_SECRETS")

    def admits(self, candidate: bytes) -> bool:
        """Is it one of the secrets? Every secret is compared, whichever matches."""
        digest = sha256(candidate).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)
