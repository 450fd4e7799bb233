"""HTTP to an OpenSearch cluster: one request at a time, tried again where that helps.

The standard library alone.  Who asks comes from the environment, never from the command
line, and is never printed:

======================  =======================================================
variable                what it is
======================  =======================================================
``OPENSEARCH_USER``     name and password of HTTP's basic authentication
``OPENSEARCH_PASSWORD``
``OPENSEARCH_API_KEY``  instead of these, sent as ``Authorization: ApiKey …``
``OPENSEARCH_CA``       file with the certificate of the authority that the
                        cluster's https is signed by; the system's otherwise
======================  =======================================================
"""

import base64
import http.client
import json
import os
import random
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxir.errors import InputError
from jaxir.export.opensearch_config import version_number
from jaxir.progress import say

__all__ = ["RETRIED", "Client", "Reply", "quoted"]

RETRIED = (429, 502, 503, 504)
"""Statuses after which the same request is sent again: too busy, or not there yet."""

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0  # seconds, doubled from one try to the next
_LOCAL = ("localhost", "127.0.0.1", "::1")
_TOLD = 300  # characters of a reply that an error shows


def quoted(name: str) -> str:
    """A name as a part of a path."""
    return urllib.parse.quote(name, safe="")


class Reply(NamedTuple):
    """What the cluster answered.

    Attributes:
      status: of HTTP.
      body: its JSON; None where there was none.
    """

    status: int
    body: Any

    @property
    def reason(self) -> str:
        """Why the cluster refused, in its own words."""
        return _told(self.body)


class Client:
    """A cluster that can be asked; threads may share it, each has its connection.

    Attributes:
      url: where it is.
      attempts: tries of a request before its error is told.

    Args:
      url: such as ``https://search.example:9200``.
      attempts: see above.
      timeout: seconds that an answer may take.
      sleep: waits between tries.
      environ: where the credentials are; the process's own by default.

    Raises:
      InputError: not a URL, credentials in it, half of a pair of them in the
        environment, or a certificate that cannot be read.

    Example::

      >>> Client("http://localhost:9200", environ={})
      Client('http://localhost:9200')
    """

    def __init__(
        self,
        url: str,
        *,
        attempts: int = 8,
        timeout: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        parts = urllib.parse.urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise InputError(
                "--url", "credentials in it", "OPENSEARCH_USER and OPENSEARCH_PASSWORD "
                "in the environment",
            )  # fmt: skip
        try:
            self._port = parts.port
        except ValueError as error:
            raise InputError("--url", repr(url), "a port that is a number") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise InputError(
                "--url", repr(url), "http://HOST:PORT or https://HOST:PORT"
            )
        self.url = url.rstrip("/")
        self._host, self._base = parts.hostname, parts.path.rstrip("/")
        self.attempts, self._timeout, self._sleep = attempts, timeout, sleep
        self._headers = _credentials(environ)
        self._context: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._context = _context(environ.get("OPENSEARCH_CA"))
        elif self._headers and self._host not in _LOCAL:
            say(f"{self.url}: credentials travel unencrypted over http")
        self._own = threading.local()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def version(self) -> str:
        """The version of OpenSearch that answers.

        Raises:
          InputError: nothing answers there, or something else does.
        """
        body = self.request("GET", "/", attempts=1).body
        found = body.get("version", {}) if isinstance(body, dict) else {}
        if found.get("distribution") != "opensearch":
            raise InputError(
                self.url, f"not OpenSearch ({str(found)[:_TOLD]})", "a cluster of it"
            )
        version_number(str(found.get("number")))
        return str(found["number"])

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        params: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (200, 201),
        attempts: int | None = None,
    ) -> Reply:
        """Asks, again after a pause where the cluster is busy or does not answer.

        The pauses double from half a second to a minute, or are what ``Retry-After``
        asks for.  A request must be one that may arrive twice.

        Args:
          method: of HTTP.
          path: from the cluster's root, quoted.
          body: JSON, or lines of it as bytes.
          params: of the URL.
          accept: statuses that are returned rather than raised.
          attempts: tries; the client's own by default.

        Raises:
          InputError: another status, or no answer after the last try.
        """
        lines = isinstance(body, bytes)
        data = body if isinstance(body, bytes) else None
        if body is not None and data is None:
            data = json.dumps(body, ensure_ascii=False).encode()
        kind = "application/x-ndjson" if lines else "application/json"
        headers = {**self._headers, "Content-Type": kind}
        target = self._base + path
        if params:
            target += "?" + urllib.parse.urlencode(params)
        asked, tries = f"{self.url}{path}", attempts or self.attempts
        for attempt in range(tries):
            last = attempt == tries - 1
            try:
                status, text, wait = self._once(method, target, data, headers)
            except ssl.SSLCertVerificationError as error:
                raise InputError(
                    self.url, f"certificate not trusted ({error.verify_message})",
                    "one of a known authority", "name that in OPENSEARCH_CA",
                ) from error  # fmt: skip
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if last:
                    raise InputError(
                        asked, f"no answer ({_reason(error)})", "OpenSearch there"
                    ) from error
                wait = None
            else:
                if status in accept:
                    return Reply(status, _json(text))
                if status not in RETRIED or last:
                    raise self._error(asked, status, text)
            self.pause(attempt, wait)
        raise AssertionError("every way out of the last try raises")

    def index(self, name: str) -> dict[str, Any] | None:
        """Settings and mappings of an index or of an alias of one, if there is one.

        Raises:
          InputError: an alias of several.
        """
        reply = self.request("GET", f"/{quoted(name)}", accept=(200, 404))
        if reply.status == 404:
            return None
        if len(reply.body) != 1:
            found = f"an alias of {len(reply.body)} indexes"
            raise InputError(f"{self.url}/{name}", found, "one index")
        return next(iter(reply.body.values()))

    def pause(self, attempt: int, asked: str | None = None) -> None:
        """Waits before the next try.

        Args:
          attempt: tries so far, less one.
          asked: what ``Retry-After`` says, if anything.
        """
        self._sleep(_pause(attempt, asked))

    def _once(
        self, method: str, target: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, str | None]:
        connection = getattr(self._own, "connection", None)
        if connection is None:
            if self._context is None:
                connection = http.client.HTTPConnection(
                    self._host, self._port, timeout=self._timeout
                )
            else:
                connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=self._timeout, context=self._context
                )
            self._own.connection = connection
        whole = True
        try:
            connection.request(method, target, data, dict(headers))
        except (BrokenPipeError, ConnectionResetError):
            # Refused before all of it was sent (413, say): the answer may be there.
            whole = False
        response = connection.getresponse()
        text = response.read()
        if not whole:
            self._drop()
        return response.status, text, response.getheader("Retry-After")

    def _drop(self) -> None:
        """The connection's state is unknown; the next request makes a new one."""
        connection = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
            self._own.connection = None

    def _error(self, asked: str, status: int, text: bytes) -> InputError:
        if status in (401, 403):
            return InputError(
                asked, f"not allowed ({status})", "a user who is",
                "set OPENSEARCH_USER and OPENSEARCH_PASSWORD, or OPENSEARCH_API_KEY",
            )  # fmt: skip
        return InputError(asked, f"status {status}: {_told(_json(text))}")


def _credentials(environ: Mapping[str, str]) -> dict[str, str]:
    key = environ.get("OPENSEARCH_API_KEY")
    user, password = environ.get("OPENSEARCH_USER"), environ.get("OPENSEARCH_PASSWORD")
    for name in ("OPENSEARCH_API_KEY", "OPENSEARCH_USER", "OPENSEARCH_PASSWORD"):
        if not environ.get(name, "").isprintable():  # http.client would show it
            raise InputError(name, "white space in it", "the credential alone")
    if key:
        return {"Authorization": f"ApiKey {key}"}
    if bool(user) != bool(password):
        missing = "OPENSEARCH_PASSWORD" if user else "OPENSEARCH_USER"
        raise InputError(missing, "not set", "both of the pair, or neither")
    if not user:
        return {}
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def _context(authority: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authority or None)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(
            "OPENSEARCH_CA", f"{authority!r} cannot be read", "a certificate (PEM)"
        ) from error


def _pause(attempt: int, asked: str | None) -> float:
    if asked is not None and asked.strip().isdigit():
        return min(float(asked), _LONGEST_WAIT)
    # Spread, so that several loaders do not come back together.
    return min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.0)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _json(text: bytes) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text[:_TOLD].decode("utf-8", "replace")


def _told(body: Any) -> str:
    """What a reply gives as its reason, or its beginning."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        return f"{error.get('type')}: {error.get('reason')}"[:_TOLD]
    return str(body if error is None else error)[:_TOLD]
