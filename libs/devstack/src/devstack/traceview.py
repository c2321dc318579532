"""A trace tree for the terminal: one line a span or a group of spans, slow and failed ones easy to see."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text
from rich.tree import Tree

from devstack.span_store import AttributeValue, Span
from devstack.tracetree import Node, TraceTree

_LINES = 400
_ATTRIBUTES = 6
_VALUE_LENGTH = 40

# Said by the span's name already, or of no interest to somebody who asks where the time went.
_NOISE = ("rpc.", "server.", "client.", "network.", "net.", "thread.", "otel.", "telemetry.", "user_agent.", "url.",
          "db.system", "db.query", "db.statement", "db.user", "db.name", "db.namespace", "messaging.system", "code.",
          "exception.", "http.request.method", "http.scheme", "http.flavor", "http.target", "http.host")  # fmt: skip


def render(tree: TraceTree) -> Tree:
    """Return the tree to print."""
    total_ms = max((root.first.end_ns for root in tree.roots), default=tree.start_ns) - tree.start_ns
    title = Text.assemble(
        ("trace ", "dim"),
        (tree.trace_id.hex(), "bold"),
        (f"  {tree.span_count} spans, {duration(total_ms / 1e6)}, services: {', '.join(tree.services)}", "dim"),
    )
    shown = Tree(title, guide_style="dim")
    lines = _Lines(tree.start_ns)
    for root in tree.roots:
        lines.add(shown, root)
    if lines.not_shown or tree.omitted:
        shown.add(Text(f"… {lines.not_shown + tree.omitted} more not shown", "dim italic"))
    if not tree.roots:
        shown.add(Text("no spans have arrived for this trace", "italic"))
    return shown


def duration(milliseconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if milliseconds < 1:
        return f"{milliseconds * 1000:.0f} µs"
    if milliseconds < 1000:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds / 1000:.2f} s"


class _Lines:
    """Adds lines until there are too many, then counts."""

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._left = _LINES
        self.not_shown = 0

    def add(self, parent: Tree, node: Node) -> None:
        if self._left == 0:
            self.not_shown += sum(len(below.spans) for below in node.walk())
            return
        self._left -= 1
        branch = parent.add(_line(node, self._start_ns))
        for child in node.children:
            self.add(branch, child)
        if node.hidden:
            branch.add(Text(f"… {node.hidden} more below", "dim italic"))


def _line(node: Node, start_ns: int) -> Text:
    span = node.first
    line = Text()
    if node.linked:
        line.append("↪ ", "magenta")
    if node.orphaned:
        line.append("(parent missing) ", "yellow")
    line.append(f"{span.service} ", "cyan")
    line.append(span.name, "bold red" if node.failed else "bold")
    line.append(f"  {_durations(node)}", "green")
    line.append(f"  +{duration(max(0, span.start_ns - start_ns) / 1e6)}", "dim")
    if node.failed:
        of_all = f"{node.failed} of {len(node.spans)} failed" if len(node.spans) > 1 else "failed"
        message = next((failed.message for failed in node.spans if failed.failed and failed.message), "")
        line.append(f"  ✗ {of_all}{': ' + _shortened(message, 80) if message else ''}", "red")
    attributes = ", ".join(_attributes(node.spans))
    if attributes:
        line.append(f"  {attributes}", "dim")
    return line


def _durations(node: Node) -> str:
    if len(node.spans) == 1:
        return duration(node.first.duration_ms)
    durations = node.durations_ms
    return (
        f"\N{MULTIPLICATION SIGN}{len(node.spans)}, {duration(min(durations))} … {duration(max(durations))}, "
        f"median {duration(node.median_ms)}"
    )


def _attributes(spans: list[Span]) -> Iterator[str]:
    """Yield what is the same in all spans, the range of numbers, and how many values where they differ."""
    names = dict.fromkeys(name for span in spans for name in span.attributes if not name.startswith(_NOISE))
    for name in list(names)[:_ATTRIBUTES]:
        values = [span.attributes[name] for span in spans if name in span.attributes]
        yield f"{name.removeprefix('bulksms.')}={_summary(values)}"


def _summary(values: list[AttributeValue]) -> str:
    first = values[0]
    if all(value == first for value in values):
        return _shortened(str(first), _VALUE_LENGTH)
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values):
        return f"{min(numbers)}…{max(numbers)}"
    return f"({len(set(map(str, values)))} values)"


def _shortened(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
