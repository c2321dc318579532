"""The limiter: one Lua script takes a slot in the window of account, tenant and everything at once, or in none."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from bulksms_dispatcher.domain.rate_limits import Limit, Limits, LimitScope, Slowdown
from bulksms_dispatcher.pacing.permits import Permit, ReleasedSlot, Throttled
from servicekit.clock import Clock, SystemClock

__all__ = ["PERMIT_TTL", "Limiter", "PacingUnavailable"]

PERMIT_TTL = timedelta(seconds=5)
"""How long a permit may wait for its request to begin; so long the slots of a process that died are not given away."""
# Slots are given so far ahead that rendering goes on while one waits for them, and no urgent batch is held up.
_AHEAD = timedelta(milliseconds=50)
# Questions leave this much of the account's limit alone, where they are more than one at a time.
_QUESTIONS_SHARE = 0.8

_Scope = tuple[LimitScope | None, str, Limit]


class PacingUnavailable(Exception):  # noqa: N818 - a state of affairs: nothing is sent until it is over
    """Redis does not answer; without it nobody knows what the other replicas send."""


class Limiter:
    """Permits for one traffic account's requests.

    A slot counts from its grant until its request is known to have arrived, and for a window more: what lies between
    the grant and the provider's clock (rendering, connection, arming, upload) can be as long as it likes.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        key_prefix: str,
        traffic_account_id: str,
        limits: Callable[[], Limits],
        slowdown: Slowdown = Slowdown(),  # noqa: B008 - immutable
        refreshes: Limit = Limit(20),  # noqa: B008 - immutable
        permit_ttl: timedelta = PERMIT_TTL,
        clock: Clock = SystemClock(),  # noqa: B008 - has no state
    ) -> None:
        self._redis = redis
        # In braces: all keys of the scripts lie on one node of a cluster.
        self._prefix = f"{key_prefix}{{pacing}}:"
        self._account = traffic_account_id
        self._limits = limits
        self._slowdown = slowdown
        self._refreshes = refreshes
        self._permit_ttl = permit_ttl
        self._clock = clock
        self._acquire_script = self._register("acquire.lua")
        self._release_script = self._register("release_slots.lua")
        self._back_off_script = self._register("back_off.lua")

    async def acquire(self, tenant_id: str, messages: int, *, ahead: timedelta = _AHEAD) -> Permit | Throttled:
        """A permit for one request, to be used `ahead` from now at the latest; raises PacingUnavailable."""
        limits = self._limits()
        tenant = (LimitScope.TENANT, self._key("tenant", tenant_id), limits.of(LimitScope.TENANT, tenant_id))
        return await self._take([*self._shared(limits), tenant], messages, ahead)

    async def acquire_refresh(self) -> Permit | Throttled:
        """A permit for one question about a status, from what sends leave and within a limit of its own.

        Raises PacingUnavailable.
        """
        own = (None, self._key("refreshes", self._account), self._refreshes)
        scopes = [*self._shared(self._limits()), own]
        blocks = [self._key("refreshes-blocked", self._account)]
        return await self._take(scopes, 0, timedelta(0), blocks=blocks, share=_QUESTIONS_SHARE)

    async def release_slots(self, slots: Sequence[ReleasedSlot]) -> None:
        """Let slots count from when their requests arrived, or be free again; raises PacingUnavailable.

        In any order, late or never: then they count until their permits' end.
        """
        now = self._clock.monotonic()
        keys: list[str] = []
        arguments: list[str | int] = []
        for slot in slots:
            ago = -1 if slot.arrived_at is None else max(0, int((now - slot.arrived_at) * 1e6))
            for key in slot.permit.keys:
                keys.append(key)
                arguments += [slot.permit.entry, ago]
        if keys:
            await self._ask(self._release_script(keys=keys, args=arguments))

    async def block_refreshes(self, duration: timedelta) -> None:
        """No status refresh for so long: the provider found them too many. Raises PacingUnavailable."""
        await self._block("refreshes-blocked", duration)

    async def block_account(self, duration: timedelta) -> None:
        """Let the whole account rest: the provider said so. Raises PacingUnavailable."""
        await self._block("blocked", duration)

    async def back_off(self, rest: timedelta) -> float:
        """The provider answered 429: the account rests, then goes on at half its rate; answers the share it has now.

        Raises PacingUnavailable.
        """
        limit = self._limits().of(LimitScope.TRAFFIC_ACCOUNT, self._account)
        thousandths = await self._ask(
            self._back_off_script(
                keys=[self._key("slowed", self._account), self._key("blocked", self._account)],
                args=[
                    _microseconds(rest),
                    _microseconds(self._slowdown.halved_for),
                    _microseconds(self._slowdown.recovery),
                    _microseconds(limit.window),
                ],
            )
        )
        return int(thousandths) / 1000

    async def ping(self) -> None:
        """Raise PacingUnavailable unless Redis answers."""
        await self._ask(self._redis.ping())

    def _shared(self, limits: Limits) -> list[_Scope]:
        """The scopes that every request of this account is in; the account is the script's first."""
        account = limits.of(LimitScope.TRAFFIC_ACCOUNT, self._account)
        return [
            (LimitScope.TRAFFIC_ACCOUNT, self._key("account", self._account), account),
            (LimitScope.GLOBAL, self._key("global", ""), limits.of(LimitScope.GLOBAL, "")),
        ]

    async def _take(
        self,
        scopes: Sequence[_Scope],
        messages: int,
        ahead: timedelta,
        *,
        blocks: Sequence[str] = (),
        share: float = 1.0,
    ) -> Permit | Throttled:
        name = uuid4().hex
        keys = [key for _, key, _ in scopes]
        others = [self._key("slowed", self._account), self._key("blocked", self._account), *blocks]
        arguments: list[str | int | float] = [
            name,
            messages,
            _microseconds(self._permit_ttl),
            _microseconds(ahead),
            _microseconds(self._slowdown.recovery),
            share,
            len(scopes),
        ]
        for _, _, limit in scopes:
            arguments += [_or_none(limit.max_requests), _or_none(limit.max_messages), _microseconds(limit.window)]
        asked_at = self._clock.monotonic()
        # redis-py loads the script again when Redis has forgotten it (NOSCRIPT after a restart or FLUSHALL).
        granted, wait, number = await self._ask(self._acquire_script(keys=[*keys, *others], args=arguments))
        if not granted:
            return Throttled(timedelta(microseconds=wait), scopes[number - 1][0] if number else None)
        limited = tuple(key for _, key, limit in scopes if not limit.is_unlimited)
        # Redis decided between the two moments: it begins by the later one, and ends by the earlier.
        return Permit(
            f"{name}:{messages}",
            limited,
            self._clock.monotonic() + wait / 1e6,
            asked_at + wait / 1e6 + self._permit_ttl.total_seconds() if limited else float("inf"),
        )

    async def _block(self, kind: str, duration: timedelta) -> None:
        """A longer block stays."""
        milliseconds, key = max(1, duration // timedelta(milliseconds=1)), self._key(kind, self._account)
        async with self._redis.pipeline() as both:
            both.set(key, b"1", px=milliseconds, nx=True)
            both.pexpire(key, milliseconds, gt=True)
            await self._ask(both.execute())

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}{kind}:{name}"

    def _register(self, name: str) -> AsyncScript:
        source = importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        return self._redis.register_script(source)

    @staticmethod
    async def _ask(question: Any) -> Any:
        try:
            return await question
        except (RedisError, OSError, TimeoutError) as error:
            raise PacingUnavailable(f"Redis does not answer: {type(error).__name__}") from error


def _or_none(maximum: int | None) -> int:
    """As the scripts have it: no limit is -1."""
    return -1 if maximum is None else maximum


def _microseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)
