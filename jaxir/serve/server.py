"""Running the service: its socket, its signals, and its indexes as they change."""

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import uvicorn

from jaxir.errors import InputError
from jaxir.progress import say
from jaxir.serve.app import Service
from jaxir.serve.connections import BURST, Connection, room
from jaxir.serve.guard import fault
from jaxir.serve.systems import (
    Embedder,
    Plan,
    Ranker,
    Stamp,
    System,
    open_embedder,
    open_ranker,
    open_system,
    read_stamp,
)

__all__ = ["Loader", "Models", "bind", "serve"]

BACKLOG = 2048
"""Connections that the system keeps until they are taken."""

RETRY = 30.0
"""Seconds until an index that could not be opened is tried again, unchanged."""

LINGER = 0.3
"""Seconds after the last new connection in which open ones may still send a request."""

REST = 1.0
"""Seconds for threads to end when nobody waits for them any more."""


class Models(NamedTuple):
    """Models beside those of the indexes.

    Attributes:
      ranker: name and place of the reranker, or None.
      embedder: name and place of the dense model that answers vectors, or None; without
        a place it is that of the index of this name.
    """

    ranker: tuple[str, str] | None = None
    embedder: tuple[str, str | None] | None = None


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
      InputError: an address that is not this machine's, or a port that is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off: without, a kept
    # connection waits 40 ms for an acknowledgement between an answer's head and body.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{host}:{port}", f"cannot listen here ({reason})",
            remedy="choose another --port or --host; --port 0 takes a free one",
        ) from error  # fmt: skip
    return listener


class Loader:
    """Opens indexes on a thread of its own, and again when they change.

    Args:
      service: whose indexes they are.
      plans: of the indexes.
      models: besides.
      warm_up: whether shapes are compiled before an index is asked.

    Attributes:
      at_work: whether the thread is at something now.
    """

    def __init__(
        self,
        service: Service,
        plans: Sequence[Plan],
        models: Models,
        *,
        warm_up: bool = True,
    ) -> None:
        self.service, self.plans, self.models = service, plans, models
        self._tick = self._go_on if warm_up else None
        self._closed = threading.Event()
        self._thread = ThreadPoolExecutor(1, "jaxir-load")
        self._failed: dict[str, tuple[Stamp | None, float]] = {}
        self._busy, self._asked = asyncio.Lock(), False
        self.at_work = False  # its thread

    async def _do(self, work: Callable[[], Any]) -> Any:
        def done() -> Any:
            self.at_work = True
            try:
                return work()
            except Exception:
                raise
            except BaseException as error:  # a panic of a Rust library ends no task
                told = RuntimeError(f"{type(error).__name__}: {error}")
                raise told.with_traceback(error.__traceback__) from None
            finally:
                self.at_work = False

        return await asyncio.get_running_loop().run_in_executor(self._thread, done)

    async def open_all(self) -> None:
        """Opens everything; the service is ready afterwards.

        Raises:
          InputError: the first thing that cannot be opened.
        """
        start = time.perf_counter()
        async with self._busy:
            found = await self._do(self._opened)
        systems = self.service.systems
        systems.open, systems.ranker, systems.embedder = found
        for name in systems.open:  # a rate is known from the first change on
            for counter in ("jaxir_index_swaps_total", "jaxir_index_failures_total"):
                self.service.metrics.add(counter, 0, index=name)
        if self.service.state == "loading":  # and not yet told to close
            self.service.state = "ready"
        seconds = round(time.perf_counter() - start, 3)
        self.service.log.write("ready", indexes=list(systems.open), seconds=seconds)

    def _opened(self) -> tuple[dict[str, System], Ranker | None, Embedder | None]:
        limits, tick = self.service.limits, self._tick
        opened = {}
        for plan in self.plans:
            start = time.perf_counter()
            opened[plan.name] = open_system(plan, limits, tick=tick)
            seconds = round(time.perf_counter() - start, 3)
            self.service.log.write("index_opened", index=plan.name, seconds=seconds)
        ranker = embedder = None
        if self.models.ranker is not None:
            ranker = open_ranker(*self.models.ranker, tick=tick)
        if self.models.embedder is not None:
            name, place = self.models.embedder
            embedder = self._embedder(name, opened[name] if place is None else place)
        return opened, ranker, embedder

    def _embedder(self, name: str, source: System | str) -> Embedder:
        limits = self.service.limits
        if isinstance(source, str):
            return open_embedder(name, source, limits, tick=self._tick)
        if source.model is None:
            raise InputError(
                name, f"an index of kind {source.searcher.kind!r} to embed with",
                "one of kind 'dense'",
            )  # fmt: skip
        return open_embedder(name, source.model, limits, tick=self._tick)

    async def look(self, *, changed_only: bool = True) -> None:
        """Exchanges the indexes that changed on the disk, or all of them.

        One that cannot be opened stays as it was; that is written down.
        """
        if not changed_only:
            if self._asked:
                return  # one that waits sees whatever this one would
            self._asked = True
        async with self._busy:
            if not changed_only:
                self._asked = False
            for plan in self.plans:
                stamp = await self._do(lambda plan=plan: read_stamp(plan.directory))
                if changed_only and not self._due(plan.name, stamp):
                    continue
                await self._exchange(plan, stamp)

    def _due(self, name: str, stamp: Stamp | None) -> bool:
        if stamp is None or stamp == self.service.systems.open[name].stamp:
            return False
        tried = self._failed.get(name)
        return tried is None or tried[0] != stamp or time.monotonic() > tried[1] + RETRY

    async def _exchange(self, plan: Plan, stamp: Stamp | None) -> None:
        service, start = self.service, time.perf_counter()

        def opened() -> tuple[System, Embedder | None]:
            system = open_system(plan, service.limits, tick=self._tick)
            follows = self.models.embedder == (plan.name, None)
            embedder = self._embedder(plan.name, system) if follows else None
            return system, embedder

        try:
            system, embedder = await self._do(opened)
        except Exception as error:
            self._failed[plan.name] = stamp, time.monotonic()
            service.metrics.add("jaxir_index_failures_total", index=plan.name)
            service.log.write(
                "index_failed", index=plan.name,
                error=f"{type(error).__name__}: {error}",
            )  # fmt: skip
            return
        self._failed.pop(plan.name, None)
        service.systems.open[plan.name] = system
        if embedder is not None:
            service.systems.embedder = embedder
        service.metrics.add("jaxir_index_swaps_total", index=plan.name)
        service.log.write(
            "index_exchanged", index=plan.name, docs=system.searcher.num_docs,
            seconds=round(time.perf_counter() - start, 3),
        )  # fmt: skip

    async def watch(self, seconds: float) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.look()
            except Exception as error:  # the next look may go well
                self.service.log.write("watch_failed", error=fault(error, told=True))

    def _go_on(self) -> None:
        if self._closed.is_set():
            raise RuntimeError("the service is closing")

    def close(self) -> None:
        """Ends the thread, after the compilation that it is :attr:`at_work` on."""
        self._closed.set()
        self._thread.shutdown(wait=False, cancel_futures=True)


class _Server(uvicorn.Server):
    """uvicorn with our signals, and a moment for requests that are on their way."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(BACKLOG)  # what asyncio takes at once is less than may wait

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.state = "closing"  # every answer now ends its connection
        for server in self.servers:
            server.close()
        quiet = time.monotonic() + LINGER
        while time.monotonic() < quiet and self.server_state.connections:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


async def serve(
    service: Service,
    loader: Loader,
    listener: socket.socket,
    *,
    watch: float,
    drain: float,
    grace: float,
    connections: int = 512,
) -> bool:
    """Serves until SIGTERM or SIGINT, and then what was accepted.

    Args:
      service: the application.
      loader: opens the indexes.
      listener: of :func:`bind`.
      watch: seconds between looks at the indexes; 0 for SIGHUP alone.
      drain: seconds after SIGTERM in which ``/ready`` says no and all is answered.
      grace: the most seconds for what was accepted.
      connections: that may be open, fewer where the process may not have so many files.

    Returns:
      Whether all threads have ended.  One that compiles, or writes to a reader who does
      not read, may not for a long time, and nobody waits for it.

    Raises:
      InputError: an index or a model cannot be opened.
    """
    most = room(connections)
    protocol = functools.partial(Connection, service=service, most=most)
    config = uvicorn.Config(
        service.app, http=cast("Any", protocol), ws="none", lifespan="off",
        access_log=False, log_config=None, server_header=False, proxy_headers=False,
        backlog=BURST, timeout_graceful_shutdown=max(1, round(grace)),
        timeout_keep_alive=75,
    )  # fmt: skip
    server, loop = _Server(config, service), asyncio.get_running_loop()
    _hear_faults(service, loop)
    tasks: set[asyncio.Task] = set()

    def begin(work: Any) -> None:
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def stop(seconds: float) -> None:
        if service.state == "closing":
            server.should_exit = server.force_exit = True  # asked for twice
            return
        service.state = "closing"
        service.log.write("closing", in_flight=service.in_flight)
        await asyncio.sleep(seconds)
        server.should_exit = True

    for name, work in (
        ("SIGTERM", lambda: stop(drain)),
        ("SIGINT", lambda: stop(0.0)),
        ("SIGHUP", lambda: loader.look(changed_only=False)),
    ):
        with contextlib.suppress(NotImplementedError, AttributeError):  # Windows
            loop.add_signal_handler(
                getattr(signal, name), lambda work=work: begin(work())
            )
    host, port = listener.getsockname()[:2]
    service.log.write("listening", host=host, port=port, connections=most)
    running = loop.create_task(server.serve([listener]))
    opening = loop.create_task(loader.open_all())
    try:
        await asyncio.wait({running, opening}, return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            if opening.exception() is not None:
                server.should_exit = True
            else:
                _greet(service, host, port)
                if watch > 0:
                    begin(loader.watch(watch))
        await running
        if opening.done():
            opening.result()
    finally:
        for task in [*tasks, opening]:
            task.cancel()
        loader.close()
        done = await asyncio.to_thread(service.batcher.close, REST)
        service.log.write("closed")
        done &= await asyncio.to_thread(service.log.close, REST)
    return done and not loader.at_work


def _hear_faults(service: Service, loop: asyncio.AbstractEventLoop) -> None:
    """Faults of the server go to the log, at most one a second: no client's nonsense
    may fill a disk, nor may a process without free files."""
    last = 0.0

    def hear(error: BaseException | None, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= 1:
            last = time.monotonic()
            told = text if error is None else fault(error, told=False)
            service.log.write("server_fault", error=told)

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            hear(record.exc_info[1] if record.exc_info else None, record.getMessage())

    loop.set_exception_handler(
        lambda _, about: hear(about.get("exception"), about["message"])
    )
    logger = logging.getLogger("uvicorn.error")
    logger.setLevel(logging.ERROR)  # a warning is a malformed request
    logger.handlers, logger.propagate = [Heard()], False


def _greet(service: Service, host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    names = ", ".join(service.systems.open) or "no index"
    with contextlib.suppress(OSError, ValueError):  # a reader who left, no stream
        say(f"http://{shown}:{port}: {names}; stop with Ctrl-C")
