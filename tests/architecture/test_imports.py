"""The import contracts of pyproject.toml refuse what they say they refuse: violations are planted in a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

# (file to plant in, statement, what the refusal names: importer -> imported)
PLANTED = (
    ("campaign", "domain/recipients.py", "import grpc", "bulksms_campaign.domain.recipients -> grpc"),
    ("campaign", "domain/recipients.py", "import sqlalchemy", "bulksms_campaign.domain.recipients -> sqlalchemy"),
    (
        "campaign",
        "domain/campaigns.py",
        "from servicekit import database",
        "bulksms_campaign.domain.campaigns -> servicekit.database",
    ),
    (
        "campaign",
        "storage/campaigns.py",
        "from bulksms_campaign import use_cases",
        "bulksms_campaign.storage.campaigns -> bulksms_campaign.use_cases",
    ),
    (
        "dispatcher",
        "domain/protocol.py",
        "from opentelemetry import trace",
        "bulksms_dispatcher.domain.protocol -> opentelemetry",
    ),
    (
        "dispatcher",
        "storage/claims.py",
        "from bulksms_dispatcher.servicers import queue",
        "bulksms_dispatcher.storage.claims -> bulksms_dispatcher.servicers.queue",
    ),
    (
        "dispatcher",
        "use_cases/intake.py",
        "from bulksms_dispatcher import workers",
        "bulksms_dispatcher.use_cases.intake -> bulksms_dispatcher.workers",
    ),
    ("ledger", "domain/decisions.py", "import asyncpg", "bulksms_ledger.domain.decisions -> asyncpg"),
    (
        "ledger",
        "storage/account_sessions.py",
        "from bulksms_ledger.engine import group_commit",
        "bulksms_ledger.storage.account_sessions -> bulksms_ledger.engine.group_commit",
    ),
    ("dlr-gateway", "domain/reports.py", "import grpc", "bulksms_dlr_gateway.domain.reports -> grpc"),
    (
        "dlr-gateway",
        "storage/spool.py",
        "from bulksms_dlr_gateway import http",
        "bulksms_dlr_gateway.storage.spool -> bulksms_dlr_gateway.http",
    ),
)


@pytest.fixture(scope="module")
def refusal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the linter says of a copy of all sources with every violation planted in it."""
    copy = tmp_path_factory.mktemp("planted")
    sources = [*_ROOT.glob("services/*/src"), *_ROOT.glob("libs/*/src")]
    for source in sources:
        shutil.copytree(source, copy / source.relative_to(_ROOT), ignore=shutil.ignore_patterns("__pycache__"))
    for service, module, statement, _ in PLANTED:
        (package,) = (copy / "services" / service / "src").glob("bulksms_*")
        with (package / module).open("a") as file:
            file.write(f"\n{statement}\n")
    paths = [str(copy / source.relative_to(_ROOT)) for source in sources]
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--config", _ROOT / "pyproject.toml", "--no-cache"],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("named", [named for *_, named in PLANTED])
def test_a_planted_import_that_goes_up_or_out_is_refused(refusal: str, named: str) -> None:
    assert any(f"{line.strip(' -')} ".startswith(f"{named} ") for line in refusal.splitlines()), refusal


def test_every_service_has_its_layers_and_a_pure_domain() -> None:
    contracts = (_ROOT / "pyproject.toml").read_text()
    for folder in _ROOT.glob("services/*/src/bulksms_*"):
        assert f'containers = ["{folder.name}"]' in contracts, "no layers contract"
        assert f'source_modules = ["{folder.name}.domain"]' in contracts, "nothing keeps its domain pure"
