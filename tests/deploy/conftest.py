"""Every overlay, rendered once."""

from __future__ import annotations

import pytest

from tests.deploy.manifests import OVERLAYS, Overlay


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Overlay:
    """One of deploy/k8s/overlays."""
    return Overlay.load(request.param)
