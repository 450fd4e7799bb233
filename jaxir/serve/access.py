"""Who may ask, what a request is called, and what is written down of it."""

import contextlib
import hashlib
import hmac
import ipaddress
import json
import queue
import re
import sys
import threading
import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from io import TextIOBase
from pathlib import Path
from typing import Any

from jaxir.errors import InputError

__all__ = ["HELD_LINES", "Keys", "Log", "is_own_host", "read_keys", "request_id"]

HELD_LINES = 10_000
"""Lines that wait for a reader who does not read; more are counted and let go."""

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id(given: str | None) -> str:
    """A client's own id of a request, or a new one if it gave none that is plain.

    Example::

      >>> request_id("trace-7"), len(request_id("two words"))
      ('trace-7', 32)
    """
    if given is not None and _ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


def is_own_host(given: str | None, names: Collection[str]) -> bool:
    """Whether a request means this service by its ``Host``.

    A page of another site whose name is turned to this machine's address (DNS
    rebinding) would otherwise read what is served to this machine alone.  Addresses in
    digits and ``localhost`` cannot be turned; nor is a ``Host`` missing that a browser
    sends.

    Args:
      given: the header, with or without a port.
      names: besides; ``*`` for any.

    Example::

      >>> [is_own_host(h, ["ir.test"]) for h in ("[::1]:80", "IR.test", "evil.test:80")]
      [True, True, False]
    """
    if given is None or "*" in names:
        return True
    name = given.strip().lower().removesuffix(".")
    name = re.sub(r":\d*$", "", name).removesuffix(".")
    if name == "localhost" or name.endswith(".localhost") or name in names:
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Keys:
    """API keys; how long a check takes does not tell how much of a key is right.

    Args:
      keys: those that are let in; none lets everybody in.

    Example::

      >>> keys = Keys(["secret"])
      >>> keys.allow({"authorization": "Bearer secret"}), keys.allow({})
      (True, False)
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def allow(self, headers: Mapping[str, str]) -> bool:
        """Whether ``Authorization: Bearer KEY`` or ``X-API-Key: KEY`` has a key.

        Args:
          headers: of the request, names in lower case.
        """
        if not self._digests:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = headers.get("x-api-key", "")
        digest = _digest(given.strip())
        # All are compared, and as hashes: neither length nor place shows in the time.
        same = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(same)


def read_keys(path: str) -> list[str]:
    """The keys of a file: one a line, without lines that begin with ``#``.

    Raises:
      InputError: no such file, or none in it; one that no header can carry.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "not a readable file", "a key a line") from error
    keys = [line.strip() for line in lines if line.strip() and line[0] != "#"]
    if not keys:
        raise InputError(path, "no keys in it", "one a line")
    for i, line in enumerate(lines):
        if line.strip() in keys and not re.fullmatch(r"[\x21-\x7e]+", line.strip()):
            raise InputError(
                f"{path}:{i + 1}", "a key with spaces or other signs than ASCII's",
                "letters, digits and signs of ASCII",
            )  # fmt: skip
    return keys


class Log:
    """A JSON object a line; texts of queries only where that is asked for.

    Args:
      stream: where lines go; None for standard output, as it is at each line.
      queries: whether ``queries`` is kept.
      apart: lines are written by a thread of their own, until :meth:`close`: a reader
        who stops reading must not stop what answers requests and hears signals.
    """

    def __init__(
        self,
        stream: TextIOBase | None = None,
        *,
        queries: bool = False,
        apart: bool = False,
    ) -> None:
        self.queries = queries
        self._stream, self._lost = stream, 0
        self._lock = threading.Lock()
        self._lines: queue.Queue[str | None] | None = None
        if apart:
            self._lines = queue.Queue(HELD_LINES)
            self._thread = threading.Thread(target=self._serve, name="jaxir-log")
            self._thread.daemon = True
            self._thread.start()

    def write(self, event: str, **fields: Any) -> None:
        """Writes a line: time, event, and the fields that are not None.

        A line that nobody can take (its reader left or does not read, the disk is full)
        is let go: what writes it is answering a request, or closing the service.
        """
        if not self.queries:
            fields.pop("queries", None)
        line = _line(event, fields)
        if self._lines is None:
            self._put(line)
            return
        try:
            if self._lost:
                self._lines.put_nowait(_line("log_lost", {"lines": self._lost}))
                self._lost = 0
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def close(self, seconds: float) -> bool:
        """Waits at most so long for what is not written yet; whether all of it is."""
        if self._lines is None:
            return True
        until = time.monotonic() + seconds
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=seconds)
            self._thread.join(max(until - time.monotonic(), 0))
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while self._lines is not None and (line := self._lines.get()) is not None:
            self._put(line)

    def _put(self, line: str) -> None:
        stream = sys.stdout if self._stream is None else self._stream
        if stream is None:  # a process may be begun without one
            return
        # A closed stream is a ValueError.
        with self._lock, contextlib.suppress(OSError, ValueError):
            stream.write(line)
            stream.flush()


def _line(event: str, fields: Mapping[str, Any]) -> str:
    """In ASCII, which every stream takes."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    line: dict[str, Any] = {
        "time": f"{stamp}.{int(now % 1 * 1000):03d}Z",
        "event": event,
    }
    line |= {name: value for name, value in fields.items() if value is not None}
    return json.dumps(line) + "\n"
