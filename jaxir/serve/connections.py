"""Connections: how many there are, and how long one may keep a place without asking.

uvicorn's own protocol waits without an end for the first byte, for the rest of a head,
and for a client that does not read what it asked for; and it takes connections until
the process has no more files, when neither a request nor a newer index can be opened.
"""

import asyncio
import contextlib
import json
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from jaxir.serve.fields import ServiceError

if TYPE_CHECKING:
    from jaxir.serve.app import Service

__all__ = ["BURST", "HEAD", "STALL", "Connection", "room"]

HEAD = 30.0
"""Seconds for the first request's head, and for any later one once it has begun."""

STALL = 60.0
"""Seconds in which a client takes something of an answer that waits for it."""

BURST = 64
"""Connections that are taken in one turn of the event loop."""

FILES = 160
"""Files that stay free for indexes, models and a burst of connections."""


def room(wanted: int) -> int:
    """How many connections there can be with the files that a process may have open.

    Args:
      wanted: at most.
    """
    if sys.platform == "win32":
        return wanted
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft < 0 else min(wanted, max(soft - FILES, 16))


class Connection(H11Protocol):
    """One connection.

    Where all places are taken, the one that has asked for nothing for the longest time
    is closed; where all are being answered, the new one is told 503.

    Args:
      args: uvicorn's.
      service: the application's service.
      most: connections.
      more: uvicorn's.
    """

    def __init__(self, *args: Any, service: "Service", most: int, **more: Any) -> None:
        super().__init__(*args, **more)
        self.service, self.most = service, most
        self._head: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self.since = self.loop.time()
        self._waiting = 0  # bytes of an answer that the client has not taken

    # --- places -----------------------------------------------------------------------

    def asks(self) -> bool:
        """Whether a request is being read or answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def idle(self) -> bool:
        """Whether nothing is asked, and nothing of an answer on its way."""
        return not (self.asks() or self.transport.get_write_buffer_size())

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) <= self.most:
            return
        # Sets keep no order, but these are few: the one that waits longest is found.
        idle = [
            one for one in self.connections
            if isinstance(one, Connection) and one is not self and one.idle()
        ]  # fmt: skip
        if idle:
            min(idle, key=lambda one: one.since).drop("room")
            return
        self._refuse(ServiceError(
            503, "too many connections", kind="server_error",
            headers={"retry-after": "1"},
        ))  # fmt: skip

    def drop(self, reason: str) -> None:
        """Closes at once.

        Args:
          reason: for the metrics.
        """
        self.connections.discard(self)
        self.service.metrics.add("jaxir_connections_dropped_total", reason=reason)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head, self._stall):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        if self.asks():
            note = cast("dict[str, Any]", self.cycle.scope).get("jaxir", {})
            leave = note.get("leave")
            if leave is not None:
                leave()

    # --- reading ----------------------------------------------------------------------

    def _await_head(self) -> None:
        self.since = self.loop.time()
        self._head = self.loop.call_later(HEAD, self._late)

    def _late(self) -> None:
        self._head = None
        if self.idle():
            self.drop("head")
        elif not self.asks():
            self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.asks():
            if self._head is not None:
                self._head.cancel()
                self._head = None
        elif self._head is None and not self.transport.is_closing():
            self._await_head()  # uvicorn's timer for idle ones has ended

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(ServiceError(400, msg))

    def _refuse(self, error: ServiceError) -> None:
        """An answer without the application: nothing was asked that it could read."""
        body = json.dumps(error.body()).encode()
        headers = {
            "content-type": "application/json", "content-length": str(len(body)),
            "connection": "close", **error.headers,
        }  # fmt: skip
        head = h11.Response(
            status_code=error.status, headers=list(headers.items()),
            reason=HTTPStatus(error.status).phrase,
        )  # fmt: skip
        # In the middle of an answer there is no other.
        with contextlib.suppress(h11.LocalProtocolError):
            for part in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    # --- writing ----------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_reader()  # closed when all is sent, which may be never

    def shutdown(self) -> None:
        with contextlib.suppress(h11.LocalProtocolError):
            super().shutdown()

    def _watch_reader(self) -> None:
        self._waiting = self.transport.get_write_buffer_size()
        if self._stall is None and self._waiting:
            self._stall = self.loop.call_later(STALL, self._look_at_reader)

    def _look_at_reader(self) -> None:
        self._stall, before = None, self._waiting
        if self.transport.get_write_buffer_size() >= before:
            self.drop("stalled")
        else:
            self._watch_reader()
