"""The dispatcher's environment."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bulksms_dispatcher.domain.rate_limits import LimitScope
from bulksms_dispatcher.settings import Settings
from servicekit.settings import load, old_names_in_use

REQUIRED = {
    "DATABASE_URL": "postgresql://localhost/dispatcher",
    "REDIS_URL": "redis://localhost",
    "CAMPAIGN_ADDRESS": "campaign:50051",
    "LEDGER_ADDRESS": "ledger:50051",
    "MITTO_API_KEY": "key",
    "MITTO_TRAFFIC_ACCOUNT_ID": "account",
}


def test_settings_of_the_replaced_system_go_on_working_under_their_old_names(monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"QUEUE_ATTEMPTS": "3", "QUEUE_RATE_DURATION_MS": "250", "RATE_LIMIT_MARGIN_MS": "60"}
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in {**REQUIRED, **old}.items():
        monkeypatch.setenv(name, value)
    settings = load(Settings)
    assert settings.retry_policy.max_retries == 3
    assert settings.limits.defaults[LimitScope.GLOBAL].window == timedelta(milliseconds=250)
    assert settings.rate_limit_arrival_grace_ms == 60
    assert [sentence.split()[0] for sentence in old_names_in_use(Settings)] == list(old)


def test_every_old_name_leads_to_a_setting() -> None:
    fields = {name.upper() for name in Settings.model_fields}
    assert set(Settings.old_names.values()) <= fields
    assert not Settings.old_names.keys() & fields
