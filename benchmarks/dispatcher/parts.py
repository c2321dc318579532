"""What computing costs: the parts of a batch's way that wait for nobody, each alone, on the CPU's clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import msgspec

from benchmarks.dispatcher.throughput import FIRST_PHONE, TEXT
from benchmarks.report import Figure
from bulksms.campaign.v1 import results_pb2
from bulksms_dispatcher.domain.known_ids import KnownIds
from bulksms_dispatcher.domain.provider_outcomes import Exchange, Fault, Phase, classify
from bulksms_dispatcher.domain.recipients import Recipients, pack, pack_ids, unpack, unpack_ids
from bulksms_dispatcher.domain.requests import render_bulk
from bulksms_dispatcher.domain.submissions import Cutter, SubmissionProgress
from devstack.mitto.message_ids import new_blocks
from smstext.parts import count_parts
from smstext.template import Template

_REPEATS = 20
_NAME = ("first_name",)
_ACCOUNT = "7c8b0a52-33a1-4a36-a1b0-0f61b1c2d3e4"


def part_by_part(batch_size: int) -> list[Figure]:
    """One figure for each part."""
    phones = range(FIRST_PHONE, FIRST_PHONE + batch_size)
    names = [f"Maria{number % 1000}" for number in range(batch_size)]
    recipients = Recipients(list(phones), names)
    packed, body = pack(recipients), _response(batch_size)
    ids = classify(Exchange(Phase.RECEIVED, Fault.NONE, 200, body), batch_size, KnownIds()).message_ids
    packed_ids = pack_ids(ids)
    template = Template.parse(TEXT)
    known = KnownIds()

    def cut() -> object:
        cutter = Cutter(batch_size, len(_NAME), SubmissionProgress())
        cutter.add(0, recipients.phones, names)
        return pack(cutter.peek())

    def texts() -> object:
        rendered = template.render_all([names])
        return count_parts(rendered, "".join(template.literals), "".join(names))

    def judge() -> object:
        return classify(Exchange(Phase.RECEIVED, Fault.NONE, 200, body), batch_size, known)

    def report() -> object:
        group = results_pb2.OutcomeGroup(phones=unpack(packed).phones, provider_message_ids=unpack_ids(packed_ids))
        return results_pb2.RecordBatchResultRequest(groups=[group]).SerializeToString()

    return [
        _figure("intake: check, cut, pack", cut, batch_size),
        _figure("unpack", lambda: unpack(packed), batch_size),
        _figure("render: texts and their parts", texts, batch_size),
        _figure(
            "render: the whole body, texts and JSON",
            lambda: render_bulk(_ACCOUNT, "Acme", TEXT, _NAME, recipients),
            batch_size,
        ),
        _figure("response: read JSON, judge", judge, batch_size),
        _figure("report: unpack, build and serialise the result", report, batch_size),
    ]


def _response(messages: int) -> bytes:
    (block,) = new_blocks(messages, 1_700_000_000_000, Random(1))
    items = [{"trafficAccountId": _ACCOUNT, "messageId": message_id} for message_id in block.ids()]
    return msgspec.json.encode({"bulkId": _ACCOUNT, "messages": items})


def _figure(part: str, work: Callable[[], object], items: int) -> Figure:
    work()
    started, started_cpu = time.perf_counter(), time.process_time()
    for _ in range(_REPEATS):
        work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    done = items * _REPEATS
    return Figure(f"part {part}", done, max(round(seconds, 4), 1e-9), cpu_us={"dispatcher": round(cpu / done * 1e6, 2)})
