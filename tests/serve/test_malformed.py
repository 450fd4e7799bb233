"""A thousand requests that are wrong in every way: 4xx, and the service goes on."""

import json
import random
import socket
import string

import pytest
from tiny_service import in_thread, make_service

from jaxir.serve.fields import Limits

COUNT = 1000
LIMITS = Limits(
    body_bytes=4096, text_chars=200, queries=3, documents=4, inputs=3, k=20, deadline=20
)


@pytest.fixture(scope="module")
def port(place):
    with in_thread(make_service(place, limits=LIMITS)) as port:
        yield port


def sent(port, raw):
    """The whole answer to the bytes of a request."""
    parts = []
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(raw)
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def request(path, body, *, method="POST", kind="application/json", more=()):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode("utf-8", "surrogatepass")
    lines = [f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
    lines += [f"content-type: {kind}"] * bool(kind) + ["connection: close", *more]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


GOOD = {
    "/search": {"query": "bread", "k": 3},
    "/rerank": {"query": "bread", "documents": ["a", "b"]},
    "/v1/embeddings": {"input": ["bread"]},
}
NAMES = {
    "/search": ("query", "k", "index", "rerank", "explain", "return_documents"),
    "/rerank": ("query", "documents", "top_n", "return_documents", "model"),
    "/v1/embeddings": ("input", "model", "encoding_format", "input_type", "dimensions"),
}
# Of no field's type, whatever the field is.
WRONG = [
    None, -1, 0, 2.5, 1e300, -(10**40), {}, {"a": 1}, [], [[]], [None], [3], [{"x": 1}],
    ["a"] * 9, "x" * 201, {"text": 3}, [{"text": None}], "no such name\x00", [True],
]  # fmt: skip


def wrong_value(draw):
    path = draw.choice(list(GOOD))
    name = draw.choice(NAMES[path])
    value = draw.choice(WRONG)
    if name in ("query", "input") and value == "no such name\x00":
        value = 7  # a text like any other there
    return request(path, GOOD[path] | {name: value})


def unknown_name(draw):
    path = draw.choice(list(GOOD))
    name = "".join(draw.choices(string.printable + "é\u2028", k=draw.randint(0, 30)))
    return request(path, GOOD[path] | {"_" + name: 1})


def missing_name(draw):
    path = draw.choice(list(GOOD))
    gone = draw.choice(["query", "documents", "input"])
    body = {name: value for name, value in GOOD[path].items() if name != gone}
    if body == GOOD[path]:
        body = {}
    return request(path, body)


def not_an_object(draw):
    value = draw.choice([None, 3, "a", [], [1], True, 2.5])
    return request(draw.choice(list(GOOD)), value)


def broken_json(draw):
    path = draw.choice(list(GOOD))
    whole = json.dumps(GOOD[path]).encode()
    cut = draw.randrange(len(whole))
    return request(path, draw.choice([whole[:cut], whole[:cut] + b"}" * 3 + b"]"]))


def no_numbers(draw):
    value = draw.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"0x10", b"01"])
    return request("/search", b'{"query": "a", "k": ' + value + b"}")


def bad_utf8(draw):
    bad = draw.choice(
        [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2"]
    )
    return request("/search", b'{"query": "a' + bad + b'"}')


def half_surrogate(draw):
    return request("/search", b'{"query": "' + draw.choice(
        [b"\\ud800", b"\\udfff a", b"a\\udc00"]) + b'"}')  # fmt: skip


def deep(draw):
    depth = draw.randint(1000, 2000)
    return request("/search", draw.choice([b"[", b'{"a":', b'{"query":[']) * depth)


def huge(draw):
    size = draw.randint(4097, 60_000)
    return request("/search", b'{"query": "' + b"a" * size + b'"}')


def huge_in_chunks(draw):
    chunk = b"1000\r\n" + b"a" * 4096 + b"\r\n"
    head = b"POST /search HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    head += b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + chunk * draw.randint(2, 12) + b"0\r\n\r\n"


def long_announced(draw):
    size = draw.choice([10**7, 10**12, 2**63, 10**30])
    return (f"POST /search HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
            f"content-type: application/json\r\ncontent-length: {size}\r\n\r\n"
            ).encode()  # fmt: skip


def other_type(draw):
    kind = draw.choice(
        [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "json",
            "application/json; charset=latin-1",
            "a/b;;=",
            "\x80",
        ]
    )
    return request("/search", GOOD["/search"], kind=kind)


def encoded(draw):
    more = [f"content-encoding: {draw.choice(['gzip', 'br', 'deflate', 'x'])}"]
    return request("/search", GOOD["/search"], more=more)


def path_trick(draw):
    path = draw.choice(
        ["/static/../app.py", "/static/..%2f..%2fetc/passwd", "/..%2f", "//", "/%00",
         "/static/%2e%2e%2fapp.py", "/static/....//app.py", "/static/\\..\\app.py",
         "/search%2f", "/search/..", "/SEARCH", "/./search", "/static/page/../page.css",
         "/static/" + "a/" * 200, "/%ff%fe", "/static/page.css%00.html", "/v1", "/v1/",
         "/v1/embeddings/..", "/search;x", "/static/C:\\windows"])  # fmt: skip
    method = draw.choice(["GET", "POST"])
    return request(path, GOOD["/search"] if method == "POST" else b"", method=method)


def other_method(draw):
    method = draw.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
    return request(draw.choice(list(GOOD)), b"", method=method)


def broken_http(draw):
    return draw.choice(
        [b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"\x00\x01\r\n\r\n",
         b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
         b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
         b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-length: a\r\n\r\n",
         b"GET / HTTP/1.1\r\nhost: x\r\nna\x00me: y\r\n\r\n",
         b"POST /search HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
         b"content-type: application/json\r\n\r\nzz\r\n"])  # fmt: skip


KINDS = [
    wrong_value, unknown_name, missing_name, not_an_object, broken_json, no_numbers,
    bad_utf8, half_surrogate, deep, huge, huge_in_chunks, long_announced, other_type,
    encoded, path_trick, other_method, broken_http,
]  # fmt: skip


def test_a_thousand(port):
    draw = random.Random(20)
    kinds = [draw.choice(KINDS) for _ in range(COUNT)]
    assert set(kinds) == set(KINDS)
    failed = []
    for kind in kinds:
        raw = kind(draw)
        answer = sent(port, raw)
        status = answer.partition(b"\r\n")[0].split(b" ")[1:2]
        if not (status and status[0][:1] == b"4" and len(status[0]) == 3):
            failed.append((kind.__name__, raw[:200], answer[:200]))
    assert failed == []
    good = sent(port, request("/search", GOOD["/search"]))
    assert good.startswith(b"HTTP/1.1 200 ")
    text = sent(port, request("/metrics", b"", method="GET")).decode()
    assert 'status="5' not in text
    assert "jaxir_in_flight 0" in text


def test_a_body_that_never_ends(place):
    limits = LIMITS._replace(deadline=0.3)
    with in_thread(
        make_service(place, kinds=("bm25",), models=False, limits=limits)
    ) as port:
        answer = sent(port, request("/search", GOOD["/search"])[:-5])
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"no whole body within 0.3 seconds" in answer


def test_a_client_that_leaves(place):
    with in_thread(make_service(place, kinds=("bm25",), models=False)) as port:
        for _ in range(3):
            with socket.create_connection(
                ("127.0.0.1", port), timeout=60
            ) as connection:
                connection.sendall(request("/search", GOOD["/search"])[:-5])
        good = sent(port, request("/search", GOOD["/search"]))
        assert good.startswith(b"HTTP/1.1 200 ")
