"""Which request gets which behaviour: by header, by script, or by rule."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Literal

import msgspec

from devstack.mitto.behaviours import POLITE, AtLeastOne, Behaviour, BehaviourError, Share, resolve
from devstack.mitto.wire import OutgoingMessage

MAX_STEPS = 100_000

Call = Literal["bulk", "send", "get"]


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which requests are meant; everything left out matches all."""

    path: Call | None = None
    traffic_account: str = ""
    destination_prefix: str = ""
    """Matches when any message of the request goes to such a destination."""

    def needs_body(self) -> bool:
        """Whether the request has to be read before this can be decided."""
        return bool(self.traffic_account or self.destination_prefix)

    def matches(self, path: str, messages: Sequence[OutgoingMessage]) -> bool:
        """Whether a request is meant."""
        if self.path is not None and self.path != path:
            return False
        if self.traffic_account and not any(m.traffic_account_id == self.traffic_account for m in messages):
            return False
        prefix = self.destination_prefix
        return not prefix or any(m.destination.startswith(prefix) for m in messages)


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A behaviour for some requests: a share of those that match, or the n-th of them (counted from 1)."""

    do: str | Behaviour
    match: Match = Match()
    share: Share = 1.0
    nth: tuple[AtLeastOne, ...] = ()
    every: AtLeastOne | None = None


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Behaviours used up one per matching request, in order; then the rules apply again."""

    steps: tuple[str | Behaviour, ...]
    match: Match = Match()
    repeat: AtLeastOne = 1


class _ActiveRule:
    def __init__(self, rule: Rule, random: Random) -> None:
        self.rule = rule
        self.behaviour = resolve(rule.do)
        self.early = _is_early(self.behaviour, rule.match)
        self._random = random
        self._seen = 0

    def applies(self, path: str, messages: Sequence[OutgoingMessage]) -> bool:
        rule = self.rule
        if not rule.match.matches(path, messages):
            return False
        self._seen += 1
        if rule.nth and self._seen not in rule.nth:
            return False
        if rule.every is not None and self._seen % rule.every:
            return False
        return rule.share >= 1 or self._random.random() < rule.share


class _ActiveScript:
    def __init__(self, script: Script) -> None:
        self.match = script.match
        self.steps = deque(resolve(step) for step in script.steps * script.repeat)
        for step in self.steps:
            _is_early(step, script.match)


class Director:
    """Decides, request by request, how to behave. Repeatable: the same seed and order give the same choices."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rules: list[_ActiveRule] = []
        self._scripts: list[_ActiveScript] = []

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in force."""
        return tuple(active.rule for active in self._rules)

    def set_rules(self, rules: Sequence[Rule]) -> None:
        """Replace all rules; their counters start again. The first rule that applies wins."""
        self._rules = [
            _ActiveRule(rule, Random(f"{self._seed}/{index}"))  # noqa: S311 - repeatable
            for index, rule in enumerate(rules)
        ]

    def add_script(self, script: Script) -> None:
        """Queue a script behind those there are."""
        remaining = len(script.steps) * script.repeat + sum(len(active.steps) for active in self._scripts)
        if remaining > MAX_STEPS:
            raise BehaviourError(f"steps: {remaining} are more than the {MAX_STEPS} that may wait")
        self._scripts.append(_ActiveScript(script))

    def remaining_steps(self) -> int:
        """How many scripted behaviours have not been used yet."""
        return sum(len(active.steps) for active in self._scripts)

    def reset(self) -> None:
        """Polite to everyone."""
        self._rules.clear()
        self._scripts.clear()

    def choose_early(self, path: str) -> Behaviour | None:
        """Asked when the head of a request is there: the behaviour that cuts its body short, if one does."""
        for script in self._scripts:
            if not script.match.needs_body() and script.match.matches(path, ()) and script.steps:
                if script.steps[0].cut_request_at_byte is None:
                    break
                return self._take(script)
        for active in self._rules:
            if active.early and active.applies(path, ()):
                return active.behaviour
        return None

    def choose(self, path: str, messages: Sequence[OutgoingMessage]) -> Behaviour:
        """Asked when a request has been read."""
        for script in self._scripts:
            if script.match.matches(path, messages):
                return self._take(script)
        for active in self._rules:
            if not active.early and active.applies(path, messages):
                return active.behaviour
        return POLITE

    def _take(self, script: _ActiveScript) -> Behaviour:
        step = script.steps.popleft()
        if not script.steps:
            self._scripts.remove(script)
        return step


def _is_early(behaviour: Behaviour, match: Match) -> bool:
    early = behaviour.cut_request_at_byte is not None
    if early and match.needs_body():
        raise BehaviourError(
            "cut_request_at_byte: happens before the body is read, so its match may name a path only,"
            " no traffic_account or destination_prefix"
        )
    return early
