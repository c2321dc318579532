"""The limiter: one Lua script takes a permit from account, tenant and global limit at once, or from none."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from bulksms_dispatcher.pacing.limits import Limit, Limits, LimitScope, Slowdown

__all__ = ["Limiter", "PacingUnavailable", "Permit"]

_SCOPES = (LimitScope.TRAFFIC_ACCOUNT, LimitScope.TENANT, LimitScope.GLOBAL)


class PacingUnavailable(Exception):  # noqa: N818 - a state of affairs: nothing is sent until it is over
    """Redis does not answer; without it nobody knows what the other replicas send."""


@dataclass(frozen=True, slots=True)
class Permit:
    """Granted when `wait` is zero; else `scope` says whose limit is reached (None: the account is blocked)."""

    wait: timedelta
    scope: LimitScope | None = None

    @property
    def granted(self) -> bool:
        """True when the request may be sent now."""
        return not self.wait


class Limiter:
    """Permits for one traffic account's requests.

    `margin` lengthens every window: permits are counted on Redis's clock, requests by the provider on arrival, and
    between the two lie rendering, arming and the network. With 25 ms at most 2.5 % of a one-second limit is unused.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        key_prefix: str,
        traffic_account_id: str,
        limits: Callable[[], Limits],
        margin: timedelta = timedelta(milliseconds=25),
        slowdown: Slowdown = Slowdown(),  # noqa: B008 - immutable
        refreshes: Limit = Limit(20),  # noqa: B008 - immutable
    ) -> None:
        self._redis = redis
        # In braces: all keys of the script lie on one node of a cluster.
        self._prefix = f"{key_prefix}{{pacing}}:"
        self._account = traffic_account_id
        self._limits = limits
        self._margin = margin
        self._slowdown = slowdown
        self._refreshes = refreshes
        self._script = self._register("limiter.lua")
        self._back_off_script = self._register("back_off.lua")
        self._leftover_script = self._register("leftover.lua")

    async def acquire(self, tenant_id: str, messages: int) -> Permit:
        """Take a permit for one request; raises PacingUnavailable."""
        limits = self._limits()
        keys = [
            self._key("account", self._account),
            self._key("tenant", tenant_id),
            self._key("global", ""),
            self._key("slowed", self._account),
            self._key("blocked", self._account),
        ]
        arguments: list[int] = [messages]
        for scope, name in zip(_SCOPES, (self._account, tenant_id, ""), strict=True):
            limit = limits.of(scope, name)
            arguments += [limit.max_requests, limit.max_messages, _microseconds(limit.window + self._margin)]
        arguments.append(_microseconds(self._slowdown.recovery))
        # redis-py loads the script again when Redis has forgotten it (NOSCRIPT after a restart or FLUSHALL).
        wait, scope_number = await self._ask(self._script(keys=keys, args=arguments))
        if not wait:
            return Permit(timedelta(0))
        reached = _SCOPES[scope_number - 1] if scope_number else None
        return Permit(timedelta(microseconds=wait), reached)

    async def acquire_leftover(self) -> timedelta:
        """Take a permit for one status refresh from what sends leave; how long to wait, zero when it is granted.

        Raises PacingUnavailable.
        """
        limit = self._limits().of(LimitScope.TRAFFIC_ACCOUNT, self._account)
        keys = [
            self._key("account", self._account),
            self._key("refreshes", self._account),
            self._key("refreshes-blocked", self._account),
            self._key("blocked", self._account),
        ]
        arguments = [
            limit.max_requests,
            _microseconds(limit.window + self._margin),
            self._refreshes.max_requests,
            _microseconds(self._refreshes.window + self._margin),
        ]
        return timedelta(microseconds=await self._ask(self._leftover_script(keys=keys, args=arguments)))

    async def block_refreshes(self, duration: timedelta) -> None:
        """No status refresh for so long: the provider found them too many. Raises PacingUnavailable."""
        milliseconds = max(1, duration // timedelta(milliseconds=1))
        await self._ask(self._redis.set(self._key("refreshes-blocked", self._account), b"1", px=milliseconds))

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
                    _microseconds(self._slowdown.hold),
                    _microseconds(self._slowdown.recovery),
                    _microseconds(limit.window + self._margin),
                ],
            )
        )
        return int(thousandths) / 1000

    async def block_account(self, duration: timedelta) -> None:
        """Let the whole account rest: the provider said so. Raises PacingUnavailable."""
        milliseconds = max(1, duration // timedelta(milliseconds=1))
        await self._ask(self._redis.set(self._key("blocked", self._account), b"1", px=milliseconds))

    async def ping(self) -> None:
        """Raise PacingUnavailable unless Redis answers."""
        await self._ask(self._redis.ping())

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


def _microseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)
