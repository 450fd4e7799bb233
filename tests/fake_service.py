"""A service that answers the page of ``jaxir serve`` from a dozen documents."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jaxir
from jaxir.serve.pages import SECURITY

PAGE = Path(jaxir.__file__).parent / "serve" / "page"
KEY = "open-sesame"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

DOCUMENTS = {
    "olympics-1964": (
        "1964 Summer Olympics",
        "The 1964 Summer Olympics were an international multi-sport event held in "
        "Tokyo, Japan, from 10 to 24 October 1964. Tokyo had been awarded the Games "
        "of 1940, but this honor was passed to Helsinki, before it was cancelled. The "
        "host city was chosen on 26 May 1959, over bids from Detroit, Brussels and "
        "Vienna.\n\nThe Games were the first held in Asia, and the first to be "
        "telecast internationally without the need for tapes to be flown overseas.",
    ),
    "olympics-2008": (
        "Beijing hosts the Games",
        "Beijing was elected host city on 13 July 2001, during the 112th IOC Session, "
        "beating bids submitted by Toronto, Paris, Istanbul and Osaka.",
    ),
    "oly-cities": (
        "List of Olympic Games host cities",
        "The International Olympic Committee selects host cities at its sessions. "
        "The IOC has planned for summer Olympics to return to a city that hosted them.",
    ),
    "stadium": (
        "Olympic stadium",
        "A stadium built for athletics; hosting opening ceremonies asks for eighty "
        "thousand seats, a running track and a cauldron that is seen from every one.",
    ),
    "marathon": (
        "Marathon",
        "A road race of 42.195 kilometres, run in every summer Olympics since 1896.",
    ),
    "torch": (
        "The torch relay",
        "Runners carry the flame from Olympia to the city that will host the Games.",
    ),
    "tokyo": (
        "Tokyo",
        "The capital of Japan and one of the most populous cities in the world.",
    ),
    "host-class": (
        "class OlympicHostRegistry",
        "class OlympicHostRegistry(dict):\n    def add_host_city(self, year, city):\n"
        "        if year in self:\n            raise KeyError(f'{year} has a host')\n"
        "        self[year] = city\n",
    ),
    "dns": ("Hostname resolution", "A host name maps to an address of the network."),
    "bread": ("Baking bread", "Bakers knead dough of flour and yeast in summer too."),
}  # fmt: skip
"""Id -> title and text."""

RTL = "\N{RIGHT-TO-LEFT OVERRIDE}gnirts desrever\N{POP DIRECTIONAL FORMATTING}"
HOSTILE = [
    ("<img src=x onerror=alert(1)>", "<script>window.hacked = 1</script>",
     "<script>window.hacked = 1</script><b>bold</b> &amp; &lt;hostile&gt; "
     "<style>*{display:none}</style><img src=x onerror='window.hacked=1'>"),
    ("rtl", "שלום עולם hostile مرحبا بالعالم", f"عالم hostile שלום {RTL} and onwards"),
    ("long", "x" * 3000, "hostile " + "wide" * 25_000),
    ("emoji", "👩‍👩‍👧‍👦 family 🇯🇵🏳️‍🌈", "hostile 👩🏽‍🚀🧑‍🚒" * 60),
    ("empty", "", ""),
    ("no-text", None, None),
    ("controls", "nul \0 bell \a", "\x1b[31mhostile\x1b[0m \ud800 \r\n lone\x7f"),
    ("zalgo", "h̴̡̛̥o̸̧͎̓s̵̢͚̈́t̴̰͝", "hostile " + "Z" + "\u0336\u0321\u033a" * 200),
    ("proto", "__proto__", "constructor hostile toString"),
    ("javascript:alert(1)", "A link?", "[hostile](javascript:alert(1))"),
]  # fmt: skip
"""Documents that try something: id, title, text."""

_SPARSE = {
    "kind": "sparse", "model": "models/sparse-inference-free", "reranker": None,
    "explain": True, "documents": True,
}  # fmt: skip
INDEXES = [
    {"name": "bm25", "docs": 10, "kind": "bm25", "model": None,
     "reranker": "models/cross-encoder", "explain": False, "documents": True},
    {"name": "sparse", "docs": 10, **_SPARSE},
    {"name": "fine-tuned", "docs": 10, "kind": "dense", "model": "models/fine-tuned",
     "reranker": None, "explain": False, "documents": True},
]  # fmt: skip
"""What ``GET /indexes`` answers."""


def _stem(word: str) -> str:
    return re.sub(r"(ing|ed|s|ic|ics)$", "", word.lower())[:5]


def _scored(query: str, text: str, expands: bool) -> list[dict]:
    """Tokens shared, as a sparse index explains them."""
    words = [_stem(word) for word in re.findall(r"\w+", text)]
    found = []
    for token in dict.fromkeys(re.findall(r"\w+", query.lower())):
        count = words.count(_stem(token))
        weight = 0.4 + 5.1 / (1 + len(token) % 4)
        if count or (expands and len(token) > 5):
            doc = 0.31 + count / (count + 1.2)
            row = (weight, doc, weight * doc)
            names = ("query_weight", "doc_weight", "score")
            found.append(
                {"token": token}
                | dict(zip(names, (round(v, 4) for v in row), strict=True))
            )
    return sorted(found, key=lambda match: -match["score"])


def hits_of(request: dict) -> list[dict]:
    """The hits of one query, as ``POST /search`` has them."""
    query, index = request["query"], request["index"]
    if "hostile" in query:
        rows = [(name, title, text, 9.0 - i) for i, (name, title, text) in
                enumerate(HOSTILE)]  # fmt: skip
        if index != "bm25":
            rows = rows[2:] + rows[:2]
        matches = [{"token": "<script>hack()</script>" * 9, "query_weight": 1.0,
                    "doc_weight": 2.0, "score": 2.0}]  # fmt: skip
    else:
        rows, matches = [], None
        for name, (title, text) in DOCUMENTS.items():
            shared = _scored(query, f"{title} {text}", index != "bm25")
            score = sum(match["score"] for match in shared)
            if index == "fine-tuned":
                score = round(1 - 1 / (1.7 + len(shared)) - len(text) / 9e3, 6)
            if request.get("rerank"):
                score = round(3 - len(text) / 90, 4)
            if shared:
                rows.append((name, title, text, score))
        rows.sort(key=lambda row: -row[3])
    hits = []
    for rank, (name, title, text, score) in enumerate(rows[: request["k"]], 1):
        hit = {
            "rank": rank,
            "doc_id": name,
            "score": score,
            "title": title,
            "text": text,
        }
        if request.get("explain"):
            full = f"{title} {text}"
            hit["matches"] = matches or _scored(query, full, index != "bm25")
        hits.append(hit)
    return hits


class FakeService(BaseHTTPRequestHandler):
    """The routes of the page; what a query says makes it slow, busy or broken."""

    protocol_version = "HTTP/1.1"
    server: "FakeServer"

    def log_message(self, *_) -> None:
        """Says nothing."""

    def _send(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in SECURITY.items():
            self.send_header(name, value)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _json(self, answer: object, status: int = 200, **headers: str) -> None:
        body = json.dumps(answer).encode()
        self._send(status, body, "application/json", **headers)

    def _error(self, status: int, message: str, **headers: str) -> None:
        error = {"message": message, "type": "error", "param": None}
        self._json({"error": error}, status, **headers)

    def _allowed(self) -> bool:
        if not self.server.asks_key:
            return True
        if self.headers.get("Authorization") == f"Bearer {KEY}":
            return True
        self._error(401, "an API key is missing or wrong")
        return False

    def do_GET(self) -> None:
        """The page, its files, and ``/indexes``."""
        self.server.paths.append(self.path)
        if self.path == "/indexes":
            if self._allowed():
                self._json({"indexes": self.server.indexes})
            return
        if self.path == "/ready":
            self._json({}, 200 if self.server.ready else 503)
            return
        name = "index.html" if self.path == "/" else self.path.removeprefix("/static/")
        file = PAGE / name
        if name in {path.name for path in PAGE.iterdir()}:
            kind = TYPES.get(file.suffix, "image/svg+xml")
            self._send(200, file.read_bytes(), kind)
        else:
            self._error(404, f"no {self.path}")

    def do_POST(self) -> None:
        """``/search``."""
        size = int(self.headers["Content-Length"])
        request = json.loads(self.rfile.read(size))
        self.server.requests.append(request)
        if not self._allowed():
            return
        query = request["query"]
        second = request["index"] != "bm25"
        if "busy" in query and len(self.server.requests) <= self.server.busy:
            self._error(429, "the queue of 64 requests is full", Retry_After="1")
        elif "broken" in query and second:
            self._error(500, "the search failed; its request id is 4f2c")
        elif "gone" in query:
            self.close_connection = True
        else:
            if "slow" in query:
                self.server.released.wait(20)
            hits = [] if "nothing" in query else hits_of(request)
            self._json(
                {"index": request["index"], "took_ms": 4.25 if second else 12.5,
                 "results": [{"query": query, "hits": hits}]}
            )  # fmt: skip


class FakeServer(ThreadingHTTPServer):
    """What tests set and read."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeService)
        self.reset()

    def reset(self) -> None:
        """As it was when it started."""
        self.indexes: list[dict] = INDEXES
        self.ready = True
        self.asks_key = False
        self.busy = 0  # requests to refuse with 429
        self.requests: list[dict] = []
        self.paths: list[str] = []
        self.released = threading.Event()  # lets slow searches answer

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.server_address[1]}/"


@contextlib.contextmanager
def fake_service() -> Iterator[FakeServer]:
    """A running server, stopped at the end."""
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    with fake_service() as running:
        print(running.url)
        time.sleep(3600)
