"""Around the application: keys, ids, errors, headers, and what is written down."""

import json
import time
import traceback
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from jaxir.serve.access import is_own_host, request_id
from jaxir.serve.fields import ServiceError
from jaxir.serve.pages import SECURITY

if TYPE_CHECKING:
    from jaxir.serve.app import Service

__all__ = ["METHODS", "OPEN", "PROBES", "Guard", "fault", "not_found"]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
"""Methods that the log calls by their names; a client may make up any."""

OPEN = ("/", "/health", "/ready", "/openapi.json")
"""Addresses that need no key, and those under ``/static/``."""

PROBES = ("/health", "/ready", "/metrics")
"""Addresses that machines ask all the time: not written down where all is well."""


class Guard:
    """Around the application: keys, ids, errors, headers, what is written down.

    Args:
      service: the application's service.
      inner: the application.
    """

    def __init__(self, service: "Service", inner: Starlette) -> None:
        self.service, self.inner = service, inner
        self._known = {route.path for route in inner.routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        service, start = self.service, time.monotonic()
        request = Request(scope, receive)
        name = request_id(request.headers.get("x-request-id"))
        note: dict[str, Any] = {"deadline": start + service.limits.deadline}
        scope["jaxir"], scope["app"], status = note, self.inner, 500

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", name.encode())]
                headers += [(k.encode(), v.encode()) for k, v in SECURITY.items()]
                if service.state == "closing":
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        try:
            response = await self._answer(request, named)
            if response is not None:
                await response(scope, receive, named)
        finally:
            seconds, path = time.monotonic() - start, _label(scope["path"], self._known)
            service.metrics.add("jaxir_requests_total", path=path, status=str(status))
            service.metrics.observe("jaxir_request_seconds", seconds, path=path)
            for own in ("deadline", "leave"):
                note.pop(own, None)
            if path not in PROBES or status not in (200, 503):
                method = scope["method"] if scope["method"] in METHODS else "other"
                service.log.write(
                    "request", id=name, method=method, path=path,
                    status=status, ms=round(1e3 * seconds, 3), **note,
                )  # fmt: skip

    async def _answer(self, request: Request, send: Send) -> Response | None:
        """None if the application answered, or the error that it ended with."""
        service, scope = self.service, request.scope
        try:
            self._check(request)
            is_open = scope["path"] in OPEN or scope["path"].startswith("/static/")
            if not is_open and not service.keys.allow(request.headers):
                raise ServiceError(
                    401, "a key is needed: Authorization: Bearer KEY, or X-API-Key",
                    kind="authentication_error",
                    headers={"www-authenticate": "Bearer"},
                )  # fmt: skip
            await self.inner.router(scope, request.receive, send)
        except ServiceError as error:
            return _failed(error)
        except HTTPException as error:
            found = not_found() if error.status_code == 404 else ServiceError(
                error.status_code, f"{scope['method']} is not answered here",
                headers=error.headers,
            )  # fmt: skip
            return _failed(found)
        except ClientDisconnect:
            return _failed(ServiceError(400, "the request was broken off"))
        except Exception as error:
            scope["jaxir"]["error"] = fault(error, told=service.log.queries)
            scope["jaxir"]["traceback"] = _frames(error, told=service.log.queries)
            message = "a fault of the service; its log says more"
            return _failed(ServiceError(500, message, kind="server_error"))
        return None

    def _check(self, request: Request) -> None:
        """Whom it is sent to, and where it ends."""
        headers, hosts = request.headers, self.service.hosts
        if hosts is not None and not is_own_host(headers.get("host"), hosts):
            raise ServiceError(
                403, "this service is not called by that name; --allow_host NAME "
                "makes it one", kind="permission_error",
            )  # fmt: skip
        if "transfer-encoding" in headers and "content-length" in headers:
            # What stands before us may have taken the other one for its end.
            raise ServiceError(
                400, "both content-length and transfer-encoding; expected one of them",
                headers={"connection": "close"},
            )  # fmt: skip


_PLAIN = ("JaxRuntimeError", "XlaRuntimeError", "MemoryError")


def fault(error: BaseException, *, told: bool) -> str:
    """An error for the log: its kind and place, and what it says only where that is
    nothing that a client sent.

    Args:
      error: that was caught.
      told: whether the log may have texts of queries, which an error may quote.
    """
    kind = type(error).__name__
    if told or kind in _PLAIN or isinstance(error, OSError):
        return f"{kind}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return kind
    place = frames[-1].filename.replace("\\", "/").split("/")[-2:]
    return f"{kind} at {'/'.join(place)}:{frames[-1].lineno}"


def _frames(error: BaseException, *, told: bool) -> str:
    """A traceback, and those of its causes."""
    lines: list[str] = []
    one: BaseException | None = error
    seen: set[int] = set()  # causes may go in a circle
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        lines += [*traceback.format_tb(one.__traceback__), f"{fault(one, told=told)}\n"]
        one = one.__cause__ or one.__context__
    return "".join(lines)


def _label(path: str, known: set[str]) -> str:
    """An address for metrics and log: clients must not make up new ones."""
    if path in known:
        return path
    return "/static" if path.startswith("/static/") else "other"


def not_found() -> ServiceError:
    """The answer to an address that is none."""
    return ServiceError(404, "nothing is at this address", kind="not_found_error")


def _failed(error: ServiceError) -> Response:
    return Response(
        json.dumps(error.body()), error.status, error.headers, "application/json"
    )
