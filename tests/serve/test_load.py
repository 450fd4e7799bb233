"""The load generator, and how answers are compared with the direct call."""

import asyncio

import numpy as np
import pytest

from jaxir.serve.load import Answer, Client, differences, load, percentiles
from jaxir.types import Ranking

IDS = ["a", "b", "c", "d"]
DIRECT = Ranking(
    np.array([2, 0, 1, 3, -1], np.int32),
    np.array([3.0, 2.0, 1.99999, 1.0, -np.inf], np.float32),
)


def hits(*pairs):
    return [
        {"rank": i + 1, "doc_id": doc, "score": score}
        for i, (doc, score) in enumerate(pairs)
    ]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (hits(("c", 3.0), ("a", 2.0), ("b", 1.99999), ("d", 1.0)), ""),
        (hits(("c", 3.00001), ("b", 2.0), ("a", 1.99999)), ""),  # as good as equal
        (hits(), ""),
        (hits(("a", 3.0)), "place 1: a, which is not there directly"),
        (hits(("c", 3.1)), "place 1: score 3.1, directly [3.0]"),
        (hits(("c", 3.0), ("c", 2.0)), "a document twice"),
        (hits(("c", 3.0), ("x", 2.0)), "place 2: x, which is not there directly"),
        (hits(("c", 3.0), ("a", 2.0), ("d", 1.99999)), "place 3: d"),
        (hits(*zip("cabde", [3, 2, 1.99999, 1, 0], strict=True)),
         "place 5: score 0, directly []"),
        ([{"rank": 2, "doc_id": "c", "score": 3.0}], "rank 2 at place 1"),
    ],
)  # fmt: skip
def test_differences(found, said):
    told = differences(found, DIRECT, IDS)
    assert told.startswith(said)
    assert bool(told) == bool(said)


def test_percentiles():
    answers = [Answer(200, {}, b"", i / 1000) for i in range(1, 101)]
    found = percentiles(answers)
    assert found["p50"] == pytest.approx(50.5)
    assert found["max"] == 100
    assert found["p90"] < found["p95"] < found["p99"] < 100


async def serve(answer):
    """A server that says ``answer`` to whatever it reads; its port."""
    seen = []

    async def talk(reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            seen.append(head)
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
            seen.append(await reader.readexactly(length))
            writer.write(answer)
            await writer.drain()
            if b"close" in answer:
                break
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1], seen


def test_answers_in_order():
    async def main():
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\n{}"
        server, port, seen = await serve(answer)
        async with server:
            found = await load(port, [b"1", b"2", b"3"], concurrency=2, path="/p")
        return found, seen

    found, seen = asyncio.run(main())
    assert [answer.status for answer in found] == [200] * 3
    assert found[0].json() == {}
    assert found[0].headers["x-a"] == "b"
    assert seen[0].startswith(b"POST /p HTTP/1.1\r\n")
    assert sorted(part for part in seen if len(part) == 1) == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nclose", b"close"]
)
def test_broken_connections_are_status_0(answer):
    async def main():
        server, port, _ = await serve(answer)
        async with server:
            broken = await Client(port).ask("GET", "/")
        return broken, await Client(port).ask("GET", "/")

    broken, refused = asyncio.run(main())
    assert (broken.status, refused.status) == (0, 0)
