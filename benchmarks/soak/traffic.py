"""What a soak sends: campaigns of many sizes and single messages, one after the other, at a steady pace."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

from bulksms.ledger.v1 import ledger_pb2
from bulksms_client import Client
from devstack.mitto.delivery import Delivery, Outcome
from devstack.mitto.report_posts import ReportSettings

__all__ = ["DELIVERY", "REPORTS", "Pace", "Traffic"]

# Lost reports are what status refreshes are for; the others are what a webhook does on an ordinary day.
REPORTS = ReportSettings(lost_share=0.03, delayed_share=0.05, duplicated_share=0.05, reordered_share=0.1, batch=20)
DELIVERY = Delivery(
    (Outcome(("Sent", "Failure"), description="Absent subscriber", share=0.02),), first_status_seconds=0.2
)

_SIZES = {"small": 10, "middle": 200, "large": 1000}
_CREDITS = 1_000_000_000
_FIRST_PHONE, _FIRST_SINGLE_PHONE = 306_940_000_000, 306_950_000_000
_TEXTS = ("Γεια {{first_name|φίλε}}, η προσφορά ξεκινά σήμερα!", "Hello {{first_name|friend}}: 20% off today.")


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is sent in how long."""

    seconds: float
    campaign_every_seconds: float = 4.0
    single_every_seconds: float = 0.5
    seed: int = 20261122


class Traffic:
    """One tenant at work. Every campaign and every single message has a sender or text of its own to be known by."""

    def __init__(self, client: Client, pace: Pace) -> None:
        self._client = client
        self._pace = pace
        self._random = Random(pace.seed)
        self._over = threading.Event()
        self.campaigns: dict[str, str] = {}
        """Sender of each campaign."""
        self.singles: dict[str, str] = {}
        """Text of each single message."""

    def prepare(self) -> None:
        """An account with credits, and contacts in groups that overlap."""
        credit = self._client.credits
        credit.open_account()
        credit.set_subscription(ledger_pb2.SUBSCRIPTION_STATUS_ACTIVE, reason="soak")
        credit.grant(_CREDITS)
        for group, size in _SIZES.items():
            names = ("Νίκη", "Bob", "")
            lines = [f"{names[number % 3]},+{_FIRST_PHONE + number}" for number in range(size)]
            content = "\n".join(["first_name,phone", *lines]).encode()
            self._client.contacts.import_csv(io.BytesIO(content), groups=[group])

    def run(self) -> None:
        """Send until the time is over; raises the error of a call that failed."""
        with ThreadPoolExecutor(2, thread_name_prefix="traffic") as threads:
            both = [
                threads.submit(self._steadily, self._send_campaign, self._pace.campaign_every_seconds),
                threads.submit(self._steadily, self._send_single, self._pace.single_every_seconds),
            ]
            for one in both:
                one.result()

    def _steadily(self, send: Callable[[int], None], every_seconds: float) -> None:
        started = time.monotonic()
        number = 0
        try:
            # The pace is kept by the clock: a slow response is followed by quick ones.
            while not self._over.wait(max(0.0, started + number * every_seconds - time.monotonic())):
                if time.monotonic() - started >= self._pace.seconds:
                    return
                send(number)
                number += 1
        except BaseException:
            self._over.set()
            raise

    def _send_campaign(self, number: int) -> None:
        group = self._random.choice(list(_SIZES))
        sender, text = f"Soak{number:06d}", self._random.choice(_TEXTS)
        campaign = self._client.campaigns.create(name=sender, text=text, sender=sender, groups=[group])
        self._client.campaigns.enqueue(campaign.campaign_id)
        self.campaigns[campaign.campaign_id] = sender

    def _send_single(self, number: int) -> None:
        text = f"Your code is {number:08d}"
        response = self._client.messages.send(f"+{_FIRST_SINGLE_PHONE + number % 1000}", text, sender="SoakCode")
        self.singles[response.message.message_id] = text
