"""Reading a request's body: of one type, up to a size, within a time."""

import asyncio
import time

from starlette.requests import Request

from jaxir.serve.fields import Limits, ServiceError

__all__ = ["BodyReader"]

DRAINED = 8
"""Times the limit that is read and dropped of a body that is too large.

A client that is still sending when the connection closes may never see the answer.
"""

HELD = 64
"""Bodies of the largest size that may be in memory at once."""


class BodyReader:
    """Reads bodies.

    Args:
      limits: of the service.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self._held = limits, 0

    async def read(self, request: Request) -> bytes:
        """A body, whole.

        Args:
          request: whose deadline counts for sending it, too.

        Raises:
          ServiceError: 415 another type than JSON; 413 too large; 408 too slow; 503 too
            many large ones at once.
        """
        _check_type(request)
        limit, size, held = self._limits.body_bytes, 0, 0
        parts: list[bytes] = []
        announced = request.headers.get("content-length", "")
        too_large = announced.isdigit() and int(announced) > limit
        if too_large and "expect" in request.headers:
            raise self._too_large()  # nothing was sent yet
        rest = request.scope["jaxir"]["deadline"] - time.monotonic()
        try:
            async with asyncio.timeout(rest):
                async for part in request.stream():
                    size += len(part)
                    if size > DRAINED * limit:
                        break
                    if too_large or size > limit:
                        too_large, parts = True, []
                        continue
                    parts.append(part)
                    held += len(part)
                    self._held += len(part)
                    if self._held > HELD * limit:
                        raise ServiceError(
                            503, "too many large bodies at once", kind="server_error",
                            headers={"retry-after": "1"},
                        )  # fmt: skip
        except TimeoutError:
            raise ServiceError(
                408, f"no whole body within {self._limits.deadline:g} seconds",
                kind="timeout_error", headers={"connection": "close"},
            ) from None  # fmt: skip
        finally:
            self._held -= held
        if too_large or size > limit:
            raise self._too_large()
        return b"".join(parts)

    def _too_large(self) -> ServiceError:
        return ServiceError(
            413, f"the body is too large; expected at most {self._limits.body_bytes} "
            "bytes", headers={"connection": "close"},
        )  # fmt: skip


def _check_type(request: Request) -> None:
    """JSON in UTF-8: a browser asks before it sends that to another site."""
    given = request.headers.get("content-type", "")
    kind, _, rest = given.partition(";")
    charset = rest.strip().lower().replace('"', "").removeprefix("charset=")
    good = kind.strip().lower() == "application/json" and charset in ("", "utf-8")
    if not good or request.headers.get("content-encoding", "identity") != "identity":
        raise ServiceError(
            415, "expected Content-Type: application/json, in UTF-8 and not compressed"
        )
