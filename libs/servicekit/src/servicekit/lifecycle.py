"""A process from start to stop: components in one written order, and in its reverse at the end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol, TypeVar, runtime_checkable

import uvloop

from servicekit import logs, telemetry
from servicekit.errors import DomainError
from servicekit.settings import ServiceSettings, SettingsError

__all__ = ["Build", "Component", "Runnable", "closing", "run_service", "running"]

S = TypeVar("S", bound=ServiceSettings)

_log = logs.get_logger("bulksms.servicekit.lifecycle")
_STOP_MARGIN = timedelta(seconds=5)


class Component(Protocol):
    """Something with a beginning and an end. `stop` is only called after a `start` that returned."""

    async def start(self) -> None:
        """Be ready for use, or raise."""
        ...

    async def stop(self) -> None:
        """Finish what is under way and let go of everything."""
        ...


@runtime_checkable
class Runnable(Protocol):
    """A component that also works by itself: `run` is given a task, and returns soon after `stop`."""

    async def run(self) -> None:
        """Work until stopped; to return or raise before that ends the process."""
        ...


Build = Callable[[S], Awaitable[Sequence[Component]]]
"""Makes a service's components from its settings, in the order they are to start."""


class ComponentEnded(Exception):  # noqa: N818 - said of something that ended, not an error by name
    """A component's `run` returned although nobody had stopped it."""


def closing(name: str, close: Callable[[], Awaitable[Any]]) -> Component:
    """A component for a thing that needs no start, only to be closed: `closing("ledger channel", channel.close)`."""
    return _Closing(name, close)


@asynccontextmanager
async def running(
    components: Sequence[Component], *, stop_timeout: timedelta = timedelta(seconds=25)
) -> AsyncIterator[None]:
    """Start in order, give each `run` a task, stop in the reverse order, each within `stop_timeout`.

    When a `run` fails or ends by itself the block is cancelled, everything is stopped, and its error raised (in an
    ExceptionGroup).
    """
    bound = stop_timeout.total_seconds()
    async with asyncio.TaskGroup() as group:
        started: list[tuple[Component, asyncio.Task[None] | None]] = []
        stopping: set[int] = set()
        try:
            for component in components:
                await component.start()
                task = None
                if isinstance(component, Runnable):
                    task = group.create_task(_supervise(component, stopping), name=_name(component))
                started.append((component, task))
            yield
        finally:
            for component, task in reversed(started):
                stopping.add(id(component))
                await _stop(component, task, bound)


def run_service(settings: S, build: Build[S]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code: 0 after a graceful stop, 1 after a failure.

    A second signal ends the process at once. One log line says why a process ends.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, build))


async def _run(settings: S, build: Build[S]) -> int:
    providers = telemetry.setup(settings)
    stop, started = asyncio.Event(), asyncio.Event()
    service = asyncio.create_task(_serve(settings, build, stop, started), name=settings.name)

    def begin_stop() -> None:
        stop.set()
        if not started.is_set():
            service.cancel()  # a start that waits for something must not outlast the signal

    _on_signals(stop, begin_stop)
    code = 0
    try:
        await service
    except asyncio.CancelledError:  # a stop signal while still starting
        _log.info("stopped before it had started")
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        _log_fatal(error)
        code = 1
    if not await providers.stop():
        _log.warning("telemetry left unsent: the collector did not answer in time")
    _log.info("stopped", service=settings.name, exit_code=code)
    return code


async def _serve(settings: S, build: Build[S], stop: asyncio.Event, started: asyncio.Event) -> None:
    _log.info("starting", service=settings.name, version=settings.service_version)
    components = await build(settings)
    async with running(components, stop_timeout=settings.shutdown_grace + _STOP_MARGIN):
        _log.info("started", service=settings.name)
        started.set()
        await stop.wait()
        _log.info("stopping", service=settings.name)


def _on_signals(stop: asyncio.Event, begin_stop: Callable[[], None]) -> None:
    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            _log.warning("second signal: ending at once", signal=number.name)
            os._exit(128 + number)
        _log.info("stop signal received", signal=number.name)
        begin_stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


async def _supervise(component: Runnable, stopping: set[int]) -> None:
    await component.run()
    if id(component) not in stopping:
        raise ComponentEnded(f"{_name(component)} ended by itself")


async def _stop(component: Component, task: asyncio.Task[None] | None, bound: float) -> None:
    """Stop one component, come what may: an error or a delay here must not keep the others from stopping."""
    try:
        async with asyncio.timeout(bound):
            await component.stop()
            if task is not None:
                await asyncio.wait({task})
    except TimeoutError:
        _log.warning("did not stop in time", component=_name(component), seconds=bound)
    except Exception:  # noqa: BLE001 - the others must be stopped all the same
        _log.exception("failed while stopping", component=_name(component))
    if task is not None and not task.done():
        task.cancel()


def _log_fatal(error: Exception) -> None:
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, SettingsError | DomainError):
        # Explained in full by its message; a traceback would only hide it.
        _log.critical("cannot go on", error=str(error))
    else:
        _log.critical("cannot go on", error_type=type(error).__qualname__, error=str(error), exc_info=error)


def _name(component: object) -> str:
    return str(getattr(component, "name", "") or type(component).__name__)


class _Closing:
    def __init__(self, name: str, close: Callable[[], Awaitable[Any]]) -> None:
        self.name = name
        self._close = close

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        await self._close()
