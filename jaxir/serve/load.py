"""A load generator for a service on this machine: connections that ask in turn.

It talks to the loopback address alone and sends what it is given, no more.
"""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxir.types import Ranking

__all__ = ["Answer", "Client", "differences", "load", "percentiles"]

HOST = "127.0.0.1"
"""The only address that is asked."""


class Answer(NamedTuple):
    """What came back.

    Attributes:
      status: of HTTP; 0 where the connection broke before a whole answer.
      headers: names in lower case.
      body: bytes.
      seconds: from the first byte sent to the last one received.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """One connection, opened when it is needed and kept while it may be.

    Args:
      port: of the service.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request and its answer; a broken connection is status 0."""
        lines = [f"{method} {path} HTTP/1.1", f"host: {HOST}:{self.port}"]
        lines += [f"content-length: {len(body)}"]
        if body:
            lines.append("content-type: application/json")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        start = time.perf_counter()
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(HOST, self.port)
            reader, writer = self._streams
            writer.write(head + body)
            status, found, content = await _answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return Answer(0, {}, b"", time.perf_counter() - start)
        if found.get("connection") == "close":
            self.close()
        return Answer(status, found, content, time.perf_counter() - start)

    def close(self) -> None:
        """Closes the connection, if one is open."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _answer(
    reader: asyncio.StreamReader,
) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split()[1]), headers, body


async def load(
    port: int,
    bodies: Sequence[bytes],
    *,
    concurrency: int,
    path: str = "/search",
    headers: Mapping[str, str] | None = None,
) -> list[Answer]:
    """The answers to requests, ``concurrency`` of them under way at a time.

    Args:
      port: of a service on this machine.
      bodies: of the requests, begun in this order.
      concurrency: connections.
      path: that all are sent to.
      headers: of each.
    """
    answers: list[Answer | None] = [None] * len(bodies)
    places = iter(range(len(bodies)))

    async def work() -> None:
        client = Client(port)
        for place in places:
            answers[place] = await client.ask("POST", path, bodies[place], headers)
        client.close()

    await asyncio.gather(*(work() for _ in range(min(concurrency, len(bodies)))))
    return [answer for answer in answers if answer is not None]


def percentiles(answers: Sequence[Answer]) -> dict[str, float]:
    """Milliseconds: ``p50``, ``p90``, ``p95``, ``p99`` and ``max``.

    Example::

      >>> percentiles([Answer(200, {}, b"", 0.002)] * 3)["p99"]
      2.0
    """
    seconds = 1e3 * np.array([answer.seconds for answer in answers])
    found = {f"p{p}": float(np.percentile(seconds, p)) for p in (50, 90, 95, 99)}
    return {name: round(value, 3) for name, value in found.items()} | {
        "max": round(float(seconds.max()), 3)
    }


def differences(
    hits: Sequence[Mapping[str, Any]],
    direct: Ranking,
    doc_ids: Sequence[str],
    *,
    tolerance: float = 1e-4,
) -> str:
    """How a service's hits differ from a direct search; empty if they do not.

    Scores agree within a tolerance; documents agree, but that two whose scores are that
    close may stand in either order.

    Args:
      hits: of one query, as they were answered.
      direct: row and scores ``[K]`` of the direct search, with more results than hits
        where there are more.
      doc_ids: of the index's rows.
      tolerance: of scores, and their share.
    """
    known = {
        doc_ids[row]: score
        for row, score in zip(direct.doc_ids.tolist(), direct.scores.tolist(),
                              strict=True)
        if row >= 0
    }  # fmt: skip
    expected = list(known.values())
    if len({hit["doc_id"] for hit in hits}) != len(hits):
        return "a document twice"
    for i, hit in enumerate(hits):
        near = tolerance * max(1.0, abs(hit["score"]))
        if hit["rank"] != i + 1:
            return f"rank {hit['rank']} at place {i + 1}"
        if i >= len(expected) or abs(hit["score"] - expected[i]) > near:
            return (
                f"place {i + 1}: score {hit['score']}, directly {expected[i : i + 1]}"
            )
        if abs(known.get(hit["doc_id"], float("inf")) - hit["score"]) > near:
            return f"place {i + 1}: {hit['doc_id']}, which is not there directly"
    return ""
