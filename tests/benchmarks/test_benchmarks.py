"""Every benchmark in a tiny form: it runs, and its figures are there. How large they are is no matter of tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "ledger": (
        ["--scale", "0.01"],
        [
            "row lock",
            "inside the service",
            "empty RPC",
            "Capture, 64",
            "BatchCapture",
            "authorizations inside",
            "BatchAuthorize",
        ],
    ),
    "dispatcher": (
        [
            *["--recipients", "2000", "--batch-size", "500", "--stage-batches", "2"],
            *["--large", "20000", "--tenants", "10", "--small", "3", "--urgent", "3", "--latency", "0.05"],
        ],
        [
            *["part render", "stage claim", "stage POST", "stage report", "intake", "send and report", "whole way"],
            *["fairness: 3 tenants with 10", "fairness: 10 tenants with 2,000"],
            *["priority: 3 normal", "priority: 3 urgent"],
        ],
    ),
    "gateway": (["--reports", "2000", "--array", "50"], ["one by one", "arrays of 50"]),
    "enqueue": (
        ["--contacts", "2000", "--calls", "4", "--pause-ms", "0"],
        ["import", "EnqueueCampaign", "never counted", "kept", "an opt-out before each", "after an import"],
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TINY)
def test_a_benchmark_runs_and_its_figures_are_there(name: str, tmp_path: Path) -> None:
    arguments, scenarios = TINY[name]
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments, "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    figures = json.loads(path.read_text())["figures"]
    for scenario in scenarios:
        assert any(scenario in figure["scenario"] for figure in figures), scenario
    for figure in figures:
        assert figure["items"] > 0
        assert figure["seconds"] > 0
    whole = [figure for figure in figures if figure["peak_mb"]]
    assert name != "dispatcher" or {"idle", "intake", "send and report"} <= whole[0]["peak_mb"].keys()
