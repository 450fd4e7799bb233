"""Keys, ids and the log."""

import io
import json
import os
import sys
import threading

import pytest

from jaxir.errors import InputError
from jaxir.serve.access import Keys, Log, is_own_host, read_keys, request_id


def test_keys():
    keys = Keys(["one", "zwei-ü"])
    assert keys
    assert keys.allow({"authorization": "Bearer one"})
    assert keys.allow({"x-api-key": "zwei-ü"})
    for headers in (
        {}, {"authorization": "one"}, {"authorization": "Bearer"}, {"x-api-key": "on"},
        {"authorization": "Bearer onex", "x-api-key": "one"}, {"x-api-key": "\udcff"},
    ):  # fmt: skip
        assert not keys.allow(headers), headers
    nobody = Keys()
    assert not nobody
    assert nobody.allow({})


def test_every_key_is_compared(monkeypatch):
    """Whether the first or the last one fits does not show in the work."""
    from jaxir.serve import access

    compared, real = [], access.hmac.compare_digest

    def counted(a, b):
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr(access.hmac, "compare_digest", counted)
    keys = Keys(["a", "bb", "c" * 1000])
    for given in ("a", "c" * 1000, "d", ""):
        compared.clear()
        keys.allow({"x-api-key": given})
        assert compared == [(32, 32)] * 3


def test_keys_of_a_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# ours\none\n\n  two  \n")
    assert read_keys(str(path)) == ["one", "two"]
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")  # as Windows writes it
    assert read_keys(str(path)) == ["one", "two"]
    path.write_text("one\nschlüssel\n", encoding="utf-8")
    with pytest.raises(InputError, match="keys:2: a key with spaces or other signs"):
        read_keys(str(path))
    path.write_text("# none\n")
    with pytest.raises(InputError, match="no keys in it; expected one a line"):
        read_keys(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not a readable file"):
        read_keys(str(path))
    with pytest.raises(InputError, match="not a readable file"):
        read_keys(str(tmp_path / "nothing"))


@pytest.mark.parametrize("given", ["a", "A-b_c.d:9", "x" * 128])
def test_plain_ids_are_kept(given):
    assert request_id(given) == given


@pytest.mark.parametrize("given", [None, "", "a b", "a\r\nb: c", "é", "x" * 129, "a\n"])
def test_other_ids_are_made_anew(given):
    made = request_id(given)
    assert made != given
    assert len(made) == 32
    assert made != request_id(given)


def test_log_lines():
    out = io.StringIO()
    Log(out).write("request", id="1", queries=["secret"], index=None, ms=1.5)
    line = json.loads(out.getvalue())
    assert set(line) == {"time", "event", "id", "ms"}
    assert line["time"].endswith("Z")
    Log(out, queries=True).write("request", queries=["a\nb"])
    assert json.loads(out.getvalue().splitlines()[-1])["queries"] == ["a\nb"]
    assert out.getvalue().count("\n") == 2


def test_log_lines_of_threads_stay_whole():
    out = io.StringIO()
    log = Log(out)
    threads = [
        threading.Thread(target=log.write, args=("e",), kwargs={"i": i})
        for i in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(json.loads(line)["i"] for line in out.getvalue().splitlines())
    assert found == list(range(20))


def test_log_lines_that_nobody_takes_are_let_go(monkeypatch):
    class Left(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    Log(Left()).write("closing")
    closed = io.StringIO()
    closed.close()
    Log(closed).write("closing")
    monkeypatch.setattr(sys, "stdout", None)  # as with >&-
    Log().write("closing")


def test_log_lines_are_of_ascii():
    """Whatever the stream's encoding, and a name that is no UTF-8."""
    raw = io.BytesIO()
    log = Log(io.TextIOWrapper(raw, encoding="ascii"), queries=True)
    log.write("request", queries=["brötchen\u2028"], error="\udcff")
    assert json.loads(raw.getvalue())["queries"] == ["brötchen\u2028"]


def test_a_log_that_nobody_reads_holds_up_nobody(monkeypatch):
    from jaxir.serve import access

    monkeypatch.setattr(access, "HELD_LINES", 4)
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as out, os.fdopen(writer, "w") as stream:
        log = Log(stream, apart=True)
        text = "x" * 1_000_000  # more than a pipe holds
        for _ in range(10):
            log.write("request", text=text)
        assert not log.close(0.05)
        seen = []

        def read():
            for line in out:
                seen.append(json.loads(line)["event"])
                if seen[-1] == "last":
                    return

        thread = threading.Thread(target=read)
        thread.start()
        while "log_lost" not in seen:
            log.write("request")
        while "last" not in seen:
            log.write("last")
        thread.join(30)
        assert log.close(30.0)
    assert "last" in seen


@pytest.mark.parametrize(
    ("host", "own"),
    [
        (None, True), ("127.0.0.1:8080", True), ("localhost", True), ("[::1]:1", True),
        ("LOCALHOST.:80", True), ("a.localhost", True), ("192.168.0.7", True),
        ("ir.test:8080", True), ("IR.test.", True), ("evil.test", False), ("", False),
        ("ir.test.evil.test", False), ("127.0.0.1.evil.test", False), (":80", False),
        ("localhost@evil.test", False), ("evil.test:80:80", False),
    ],
)  # fmt: skip
def test_hosts(host, own):
    assert is_own_host(host, ["ir.test"]) == own
    assert is_own_host(host, ["*"])


def test_log_goes_to_standard_output(capsys):
    Log().write("ready", seconds=1)
    assert json.loads(capsys.readouterr().out)["event"] == "ready"
