"""The README's example runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from bulksms.campaign.v1 import campaign_pb2 as pb

README = Path(__file__).resolve().parent.parent / "README.md"


def test_a_campaign_is_created_and_enqueued_in_under_fifteen_lines(services: Any, environment: dict[str, str]) -> None:
    services.on("CreateCampaign", pb.CreateCampaignResponse(campaign=pb.Campaign(campaign_id="c1")))
    services.on("EnqueueCampaign", pb.EnqueueCampaignResponse(created=9_700, enqueued_jobs=2))
    example = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[0]
    assert len(example.splitlines()) < 15
    ran = subprocess.run(
        [sys.executable, "-c", example],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "c1: 9700 recipients in 2 batches\n"
    assert [call.method for call in services.calls] == ["CreateCampaign", "EnqueueCampaign"]
