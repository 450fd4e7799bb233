"""Connections that ask for nothing, do not read, or are too many."""

import contextlib
import json
import socket
import threading
import time

import pytest
from tiny_service import listening, make_service

from jaxir.serve import connections
from jaxir.serve.connections import room

SOON = 30.0
HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(scope="module")
def service(place):
    made = make_service(place, kinds=("bm25",), models=False)
    yield made
    made.batcher.close()


def opened(port):
    return socket.create_connection(("127.0.0.1", port), timeout=SOON)


def head_of(connection, raw=b""):
    """The status line of a whole answer, and the rest of it."""
    connection.sendall(raw)
    answer = b""
    while b"\r\n\r\n" not in answer or len(body_of(answer)) < length_of(answer):
        part = connection.recv(65536)
        assert part, answer
        answer += part
    head, _, rest = answer.partition(b"\r\n")
    return head, rest


def body_of(answer):
    return answer.partition(b"\r\n\r\n")[2]


def length_of(answer):
    return int(answer.lower().split(b"content-length: ")[1].split(b"\r")[0])


def is_gone(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def dropped(service, reason):
    return service.metrics.value("jaxir_connections_dropped_total", reason=reason)


def test_the_idlest_makes_room(service):
    before = dropped(service, "room")
    with listening(service, most=3) as port:
        kept = [opened(port) for _ in range(3)]
        for connection in kept:  # the first has asked most lately
            assert head_of(connection, HEALTH)[0].endswith(b"200 OK")
        assert head_of(kept[0], HEALTH)[0].endswith(b"200 OK")
        more = [opened(port), opened(port)]
        for connection in more:
            assert head_of(connection, HEALTH)[0].endswith(b"200 OK")
        assert is_gone(kept[1])
        assert is_gone(kept[2])
        for connection in (kept[0], *more):
            assert head_of(connection, HEALTH)[0].endswith(b"200 OK")
    assert dropped(service, "room") == before + 2


def test_where_all_are_answered_there_is_no_room(service):
    body = b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with listening(service, most=2) as port:
        busy = [opened(port) for _ in range(2)]
        for connection in busy:  # a body that is still on its way
            connection.sendall(body + b'content-length: 18\r\n\r\n{"query": "bre')
        time.sleep(0.1)
        head, rest = head_of(opened(port))
        assert head == b"HTTP/1.1 503 Service Unavailable"
        assert b"retry-after: 1" in rest
        assert b"too many connections" in rest
        for connection in busy:
            assert head_of(connection, b'ad"}')[0].endswith(b"200 OK")


@pytest.mark.parametrize("sent", [b"", HEALTH[:20], HEALTH + HEALTH[:20]])
def test_a_head_that_does_not_come(service, monkeypatch, sent):
    monkeypatch.setattr(connections, "HEAD", 0.2)
    before = dropped(service, "head")
    with listening(service) as port:
        connection = opened(port)
        if sent[len(HEALTH) :]:
            assert head_of(connection, HEALTH)[0].endswith(b"200 OK")
        connection.sendall(sent.removeprefix(HEALTH))
        assert is_gone(connection)
        slow = opened(port)  # its end is in time
        slow.sendall(HEALTH[:20])
        assert head_of(slow, HEALTH[20:])[0].endswith(b"200 OK")
        time.sleep(0.3)  # an answered one may wait longer
        assert head_of(slow, HEALTH)[0].endswith(b"200 OK")
    assert dropped(service, "head") == before + 1


def test_an_answer_that_nobody_reads(service, monkeypatch):
    monkeypatch.setattr(connections, "STALL", 0.2)
    before = dropped(service, "stalled")
    with listening(service) as port:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(SOON)
        connection.connect(("127.0.0.1", port))
        ask = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
        with contextlib.suppress(OSError):
            for _ in range(2000):
                connection.sendall(ask * 10)
                if dropped(service, "stalled") > before:
                    break
                time.sleep(0.005)
        assert dropped(service, "stalled") == before + 1


def test_nonsense_in_the_middle(service, capsys):
    head = b"POST /nothing HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with listening(service) as port:
        answered = opened(port)
        assert head_of(answered, head)[0].endswith(b"404 Not Found")
        answered.sendall(b"zz\r\n")  # after the answer there is no other
        assert is_gone(answered)
        head, rest = head_of(opened(port), b"nonsense\r\n\r\n")
        assert head == b"HTTP/1.1 400 Bad Request"
        assert json.loads(body_of(rest))["error"]["param"] is None
    assert "Traceback" not in capsys.readouterr().err


def test_who_leaves_is_not_worked_for(service):
    work = service.systems.open["bm25"].work(5)
    held, begun, real, seen = threading.Event(), threading.Event(), work.run, []

    def run(items):
        begun.set()
        assert held.wait(SOON)
        seen.extend(item.text for item in items)
        return real(items)

    def ask(port, text):
        body = json.dumps({"query": text, "k": 5}).encode()
        connection = opened(port)
        connection.sendall(
            b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            + f"content-length: {len(body)}\r\n\r\n".encode() + body
        )  # fmt: skip
        return connection

    def until(count):
        for _ in range(1000):
            if service.in_flight == count:
                return
            time.sleep(0.01)
        raise AssertionError(service.in_flight)

    work.run = run
    try:
        with listening(service) as port:
            stays = ask(port, "bread")
            assert begun.wait(SOON)
            leaves = ask(port, "water")
            until(2)
            leaves.close()
            until(1)
            held.set()
            assert head_of(stays)[0].endswith(b"200 OK")
            assert head_of(ask(port, "clay"))[0].endswith(b"200 OK")
    finally:
        work.run = real
    assert seen == ["bread", "clay"]
    text = service.metrics.text()
    assert 'jaxir_requests_total{path="/search",status="499"} 1' in text


def test_room(monkeypatch):
    resource = pytest.importorskip("resource")
    for soft, wanted, found in ((1024, 512, 512), (400, 512, 240), (50, 512, 16),
                                (-1, 512, 512), (1024, 5, 5)):  # fmt: skip
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert room(wanted) == found
