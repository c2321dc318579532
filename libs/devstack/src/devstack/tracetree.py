"""A trace as a tree with durations: repeated siblings folded, links to other traces followed, nothing lost."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from devstack.span_store import Span, SpanKey, SpanReader

_SPANS_READ = 20_000
_LINKS_READ = 5_000
_FOLD_FROM = 3
_DEPTH_LIMIT = 40
_LINKED_TRACES_LIMIT = 500
_LINK_STEPS = 2
_WHOLE_TRACE_LIMIT = 200


@dataclass(slots=True, eq=False)
class Node:
    """One line of the tree: a span, or several alike."""

    spans: list[Span]
    linked: bool = False
    """Whether it stands in another trace, and is here because of a link."""
    orphaned: bool = False
    """Whether its parent never arrived."""
    children: list[Node] = field(default_factory=list)
    followed: bool = False
    """Whether its links have been looked at."""
    hidden: int = 0
    """Nodes below that are too deep to be shown."""

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it."""
        pending = [self]
        while pending:
            node = pending.pop()
            yield node
            pending += reversed(node.children)

    @property
    def first(self) -> Span:
        """The earliest of its spans."""
        return self.spans[0]

    @property
    def failed(self) -> int:
        """How many of its spans failed."""
        return sum(span.failed for span in self.spans)

    @property
    def durations_ms(self) -> list[float]:
        """The durations of its spans."""
        return [span.duration_ms for span in self.spans]

    @property
    def median_ms(self) -> float:
        """The median of the durations."""
        return statistics.median(self.durations_ms)


@dataclass(frozen=True, slots=True)
class TraceTree:
    """A whole trace, folded."""

    trace_id: bytes
    roots: list[Node]
    span_count: int
    omitted: int
    """Spans of the trace that were not read because there are too many."""

    @property
    def start_ns(self) -> int:
        """When its earliest span began."""
        return min((root.first.start_ns for root in self.roots), default=0)

    @property
    def services(self) -> list[str]:
        """The services that took part, in the order of the tree."""
        return list(dict.fromkeys(node.first.service for root in self.roots for node in root.walk()))


def read_trace(store: SpanReader, trace_id: bytes, *, span_limit: int = _SPANS_READ) -> TraceTree:
    """Read a trace, and the spans of other traces that link to it or are linked from it."""
    forest = _Forest(store, span_limit)
    roots = forest.grow(trace_id)
    read = sum(1 for root in roots for _ in root.walk())
    forest.follow_links(trace_id)
    return TraceTree(trace_id, _fold(roots), read, max(0, store.count(trace_id) - read))


class _Forest:
    """The unfolded nodes, while they are being put together."""

    def __init__(self, store: SpanReader, span_limit: int) -> None:
        self._store = store
        self._spans_left = span_limit
        self._nodes: dict[SpanKey, Node] = {}
        self._roots: dict[bytes, list[Node]] = {}

    def grow(self, trace_id: bytes) -> list[Node]:
        """Read one trace and return its roots; a span without its parent is a root too."""
        spans = self._store.trace(trace_id, self._spans_left)
        self._spans_left -= len(spans)
        nodes = {span.key.span_id: Node([span]) for span in spans}
        roots = []
        for span_id, node in nodes.items():
            parent = nodes.get(node.first.parent_id)
            if parent is None or parent is node:
                node.orphaned = bool(node.first.parent_id)
                roots.append(node)
            else:
                parent.children.append(node)
            self._nodes[SpanKey(trace_id, span_id)] = node
        self._roots[trace_id] = roots + _cut_circles(roots, nodes)
        return self._roots[trace_id]

    def follow_links(self, trace_id: bytes) -> None:
        """Hang other traces below the spans of this one that they link to, or that link to them."""
        for source, target in self._store.linked_to(trace_id, _LINKS_READ):
            if target in self._nodes:
                self._hang(source, below=self._nodes[target])
        for _ in range(_LINK_STEPS):  # from a report's row to the call that brought it, to the request before that
            linking = [node for node in self._nodes.values() if node.first.links and not node.followed]
            for node in linking:
                node.followed = True
                for link in node.first.links:
                    if link.trace_id not in {node.first.key.trace_id, trace_id}:
                        self._hang(link, below=node)

    def _hang(self, key: SpanKey, *, below: Node) -> None:
        """Show the trace of `key` below a node, whole when it is small; a second time only the span itself."""
        seen_before = key.trace_id in self._roots
        if not seen_before:
            if self._spans_left <= 0 or len(self._roots) > _LINKED_TRACES_LIMIT:
                return
            self.grow(key.trace_id)
        node = self._nodes.get(key)
        if node is None:
            return
        roots = self._roots[key.trace_id]
        if seen_before:
            below.children.append(Node(node.spans, linked=True))
        elif sum(1 for root in roots for _ in root.walk()) <= _WHOLE_TRACE_LIMIT:
            below.children += [Node(root.spans, linked=True, children=root.children) for root in roots]
        else:
            below.children.append(Node(node.spans, linked=True, children=node.children))


def _cut_circles(roots: list[Node], nodes: dict[bytes, Node]) -> list[Node]:
    """Return a node of each circle of parents, cut open: nonsense from outside must still be shown."""
    reached = {id(node) for root in roots for node in root.walk()}
    cut: list[Node] = []
    for node in nodes.values():
        if id(node) not in reached:
            node.orphaned = True
            nodes[node.first.parent_id].children.remove(node)
            cut.append(node)
            reached |= {id(below) for below in node.walk()}
    return cut


def _fold(nodes: list[Node], depth: int = 0) -> list[Node]:
    """Join siblings of the same service, name and kind where there are several, and their children likewise."""
    alike: dict[tuple[str, str, int, bool, bool], list[Node]] = defaultdict(list)
    for node in sorted(nodes, key=lambda node: node.first.start_ns):
        span = node.first
        alike[span.service, span.name, span.kind, node.linked, node.orphaned].append(node)
    folded: list[Node] = []
    for group in alike.values():
        if len(group) < _FOLD_FROM:
            folded += [_joined([node], depth) for node in group]
        else:
            folded.append(_joined(group, depth))
    return sorted(folded, key=lambda node: node.first.start_ns)


def _joined(nodes: list[Node], depth: int) -> Node:
    children = [child for node in nodes for child in node.children]
    joined = Node([span for node in nodes for span in node.spans], nodes[0].linked, nodes[0].orphaned)
    if depth < _DEPTH_LIMIT:
        joined.children = _fold(children, depth + 1)
    else:
        joined.hidden = sum(1 for child in children for _ in child.walk())
    return joined
