"""The client: what it tries again, how long it waits, and what it never prints."""

import json
import shutil
import socketserver
import ssl
import subprocess
import threading

import pytest
from fake_opensearch import FakeOpenSearch, serving

from jaxir.errors import InputError
from jaxir.export.opensearch_client import Client


@pytest.fixture
def fake():
    return FakeOpenSearch()


@pytest.fixture
def url(fake):
    with serving(fake) as url:
        yield url


def waiting(url, **options):
    """A client, and the seconds that it would have waited."""
    pauses: list[float] = []
    options = {"environ": {}, "sleep": pauses.append, **options}
    return Client(url, **options), pauses


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_busy_is_tried_again_with_longer_pauses(url, fake, status):
    client, pauses = waiting(url)
    for _ in range(5):
        fake.fail("/", status=status)
    assert client.request("GET", "/").status == 200
    assert len(pauses) == 5
    for i, pause in enumerate(pauses):
        assert 0.25 * 2**i <= pause <= 0.5 * 2**i


def test_retry_after(url, fake):
    client, pauses = waiting(url)
    for asked in ("3", "9999", "Wed, 21 Oct 2026 07:28:00 GMT"):
        fake.fail("/", status=429, headers={"Retry-After": asked})
    client.request("GET", "/")
    assert pauses[:2] == [3.0, 60.0]
    assert pauses[2] <= 2.0


def test_it_ends(url, fake):
    client, pauses = waiting(url, attempts=3)
    for _ in range(3):
        fake.fail("/", status=503)
    with pytest.raises(InputError, match=r"status 503: busy: try later"):
        client.request("GET", "/")
    assert len(pauses) == 2
    for _ in range(3):
        fake.fail("/", drop="before")
    with pytest.raises(
        InputError, match=r"no answer \(.+\); expected OpenSearch there"
    ):
        client.request("GET", "/")


class _Hasty(socketserver.StreamRequestHandler):
    """Refuses a request by its head, and hangs up on the rest of it."""

    def handle(self):
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")


def test_an_answer_before_the_request_was_sent():
    with socketserver.TCPServer(("127.0.0.1", 0), _Hasty) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        client, pauses = waiting(f"http://127.0.0.1:{server.server_address[1]}")
        try:
            for _ in range(2):
                reply = client.request("POST", "/", b"x" * 20_000_000, accept=(413,))
                assert (reply.status, reply.body) == (413, {})
        finally:
            server.shutdown()
            thread.join()
    assert not pauses


def test_other_errors_are_told_at_once(url, fake):
    client, pauses = waiting(url)
    with pytest.raises(
        InputError, match=r"status 404: index_not_found_exception: no su"
    ):
        client.request("GET", "/missing")
    fake.fail("/", status=500, body="out of memory")
    with pytest.raises(InputError, match=r"status 500: out of memory"):
        client.request("GET", "/")
    assert not pauses


def test_nobody_there():
    client, pauses = waiting("http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"no answer \(.*refused"):
        client.version()
    assert not pauses  # the first request says at once that there is nothing


@pytest.mark.parametrize(
    ("environ", "header"),
    [
        ({"OPENSEARCH_USER": "ann", "OPENSEARCH_PASSWORD": "pä"}, "Basic YW5uOnDDpA=="),
        ({"OPENSEARCH_API_KEY": "secret"}, "ApiKey secret"),
    ],
)
def test_credentials(url, fake, environ, header, capfd):
    fake.authorization = header
    client, _ = waiting(url, environ=environ)
    assert client.version() == "2.19.1"
    fake.authorization = "another"
    with pytest.raises(InputError, match=r"not allowed \(401\)") as caught:
        client.version()
    said = str(caught.value) + capfd.readouterr().err + repr(client)
    for value in (*environ.values(), header):
        assert value not in said


def test_credentials_that_cannot_be(url):
    with pytest.raises(
        InputError, match=r"OPENSEARCH_PASSWORD: not set; expected both"
    ):
        Client(url, environ={"OPENSEARCH_USER": "ann"})
    with pytest.raises(InputError, match=r"OPENSEARCH_USER: not set"):
        Client(url, environ={"OPENSEARCH_PASSWORD": "x"})
    with pytest.raises(InputError, match=r"^OPENSEARCH_API_KEY: white space") as caught:
        Client(url, environ={"OPENSEARCH_API_KEY": "secret\n"})
    assert "secret" not in str(caught.value)


def test_credentials_over_http_are_remarked(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("jaxir.export.opensearch_client.say", said.append)
    Client("http://search.example:9200", environ={"OPENSEARCH_API_KEY": "k"})
    assert said == [
        "http://search.example:9200: credentials travel unencrypted over http"
    ]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://ann:secret@host:9200", r"^--url: credentials in it; expected OPENS"),
        ("host:9200", r"--url: 'host:9200'; expected http://HOST:PORT"),
        ("ftp://host", r"--url: 'ftp://host'"),
        ("http://host:port", r"expected a port that is a number"),
    ],
)
def test_urls(url, message):
    with pytest.raises(InputError, match=message) as caught:
        Client(url, environ={})
    assert "secret" not in str(caught.value)


def test_certificates(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    for place in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(InputError, match=r"OPENSEARCH_CA: .* cannot be read"):
            Client("https://host", environ={"OPENSEARCH_CA": str(place)})


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys")
def test_https(fake, tmp_path, monkeypatch):
    key, authority = str(tmp_path / "key.pem"), str(tmp_path / "ca.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-keyout", key, "-out", authority, "-subj", "/CN=test",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, key)
    monkeypatch.setattr(socketserver.BaseServer, "handle_error", lambda *args: None)
    with serving(fake, context) as url:
        client, _ = waiting(url, environ={"OPENSEARCH_CA": authority})
        assert client.version() == "2.19.1"
        client, pauses = waiting(url)
        with pytest.raises(
            InputError, match=r"certificate not trusted .*OPENSEARCH_CA"
        ):
            client.version()
    assert not pauses


def test_an_alias_of_several_indexes(url, fake):
    client, _ = waiting(url)
    body = {name: {"settings": {}, "mappings": {}} for name in ("a", "b")}
    fake.fail("/both", status=200, body=body)
    with pytest.raises(InputError, match=r"/both: an alias of 2 indexes; expected one"):
        client.index("both")
    fake.fail("/one", status=200, body={"real": body["a"]})
    assert client.index("one") == body["a"]
    assert client.index("none") is None


def test_a_path_before_the_cluster(url, fake):
    client, _ = waiting(f"{url}/proxy/")
    with pytest.raises(InputError, match="no such index"):
        client.request("GET", "/x")
    assert fake.requests[0][1] == "/proxy/x"
    assert json.loads(fake.requests[0][4] or b"null") is None
