"""A cluster for tests: records and validates requests, answers them by brute force.

What it accepts is what OpenSearch's documentation prints for the version it plays; it
keeps weights as Lucene's FeatureField does, and fails where a test says.
"""

import contextlib
import json
import re
import struct
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["FakeOpenSearch", "serving"]

SEISMIC = {
    "n_postings", "cluster_ratio", "summary_prune_ratio", "approximate_threshold",
    "quantization_ceiling_search", "quantization_ceiling_ingest",
}  # fmt: skip
NEURAL, FEATURE = "neural_sparse", "rank_feature"


class Refused(Exception):
    """A reply with an error in it."""

    def __init__(self, status, kind, reason):
        super().__init__(reason)
        self.status, self.kind, self.reason = status, kind, reason

    @property
    def body(self):
        error = {"type": self.kind, "reason": self.reason, "root_cause": []}
        return {"error": error, "status": self.status}


def need(condition, reason, kind="illegal_argument_exception", status=400):
    if not condition:
        raise Refused(status, kind, reason)


def only(found, known, where):
    need(set(found) <= set(known), f"{where}: unknown {set(found) - set(known)}")


def feature(value):
    """A float of 32 bits without its last 15."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return struct.unpack("<f", struct.pack("<I", bits >> 15 << 15))[0]


class FakeOpenSearch:
    """State and rules; :func:`serving` puts it on a port.

    Attributes:
      version: as it says itself.
      requests: ``(method, path, params, headers, body)`` in the order of arrival.
      indexes: name to ``{"settings", "mappings", "docs"}``.
      faults: what the next requests meet, see :meth:`fail`.
    """

    def __init__(self, version="2.19.1"):
        self.version = version
        self.number = tuple(map(int, version.split(".")[:2]))
        self.requests, self.indexes, self.pipelines, self.faults = [], {}, {}, []
        self.authorization, self.max_bytes, self.busy_docs = None, 100_000_000, {}
        self.lock, self.made = threading.Lock(), 0

    def fail(self, part, **fault):
        """The next request whose path has ``part``: status and headers, or drop."""
        self.faults.append((part, fault))

    def sent(self, part, method=None):
        """Recorded requests whose path has ``part``."""
        return [
            request for request in self.requests
            if part in request[1] and method in (None, request[0])
        ]  # fmt: skip

    # -------------------------------------------------------------- requests

    def answer(self, method, path, params, headers, body):
        """Status and JSON of a request."""
        lines = path.endswith("/_bulk")
        kind = "application/x-ndjson" if lines else "application/json"
        need(headers["Content-Type"] == kind, f"Content-Type must be {kind}")
        if self.authorization is not None:
            wrong = headers.get("Authorization") != self.authorization
            need(not wrong, "missing credentials", "security_exception", 401)
        if lines:
            need(len(body) <= self.max_bytes, "too large", "content_too_long", 413)
            return self.bulk(path.split("/")[1], body)
        body = json.loads(body) if body else {}
        parts = path.strip("/").split("/")
        if method == "DELETE":
            self.indexes.pop(parts[0], None)
            self.pipelines.pop(parts[-1], None)
            return {"acknowledged": True}
        if path == "/":
            version = {"distribution": "opensearch", "number": self.version}
            return {"name": "fake", "version": version}
        if parts[:2] == ["_search", "pipeline"]:
            need(method == "PUT", "PUT a pipeline")
            self.pipelines[parts[2]] = self.pipeline(body)
            return {"acknowledged": True}
        if len(parts) == 1:
            return (
                self.create(parts[0], body) if method == "PUT" else self.get(parts[0])
            )
        index = self.index(parts[0])
        if parts[1] == "_refresh":
            index["visible"] = dict(index["docs"])
            return {"_shards": {"failed": 0}}
        if parts[1] == "_count":
            return {"count": len(index["visible"])}
        if parts[1] == "_settings":
            known = (
                "refresh_interval",
                "number_of_replicas",
                "search.default_pipeline",
            )
            only(body["index"], known, "settings")
            index["settings"] |= body["index"]
            return {"acknowledged": True}
        if parts[1] == "_mapping":
            only(body, ("_meta",), "mapping")
            index["mappings"] |= body
            return {"acknowledged": True}
        need(parts[1] == "_search", f"no handler for {path}")
        return self.search(index, body, params)

    def index(self, name):
        need(
            name in self.indexes, f"no such index [{name}]",
            "index_not_found_exception", 404,
        )  # fmt: skip
        return self.indexes[name]

    def get(self, name):
        index = self.index(name)
        settings = {"index": index["settings"]}
        return {name: {"settings": settings, "mappings": index["mappings"]}}

    def create(self, name, body):
        need(re.fullmatch(r"[a-z0-9][a-z0-9_.+-]*", name), "invalid_index_name")
        need(
            name not in self.indexes, f"index [{name}] already exists",
            "resource_already_exists_exception",
        )  # fmt: skip
        only(body, ("settings", "mappings"), "index")
        settings = body["settings"]["index"]
        only(
            settings,
            ("number_of_shards", "number_of_replicas", "refresh_interval", "sparse",
             "search.default_pipeline"),
            "settings",
        )  # fmt: skip
        only(body["mappings"], ("dynamic", "_meta", "properties"), "mappings")
        for mapping in body["mappings"]["properties"].values():
            self.check_field(mapping, settings)
        self.made += 1
        self.indexes[name] = {
            "settings": {**settings, "uuid": f"uuid-{self.made}"},
            "mappings": body["mappings"], "docs": {}, "visible": {},
        }  # fmt: skip
        return {"acknowledged": True, "index": name}

    def check_field(self, mapping, settings):
        kind = mapping["type"]
        if kind == "sparse_vector":
            need(self.number >= (3, 3), "No handler for type [sparse_vector]")
            need(settings.get("sparse") is True, "index.sparse must be true")
            only(mapping, ("type", "method"), "sparse_vector")
            only(mapping["method"], ("name", "parameters"), "method")
            need(mapping["method"]["name"] == "seismic", "method.name")
            only(mapping["method"]["parameters"], SEISMIC, "parameters")
        else:
            need(kind in ("keyword", "text", "rank_features"), f"No handler for {kind}")
            only(mapping, ("type",), kind)

    def pipeline(self, body):
        only(body, ("request_processors",), "pipeline")
        (processor,) = body["request_processors"]
        (name,) = processor
        need(self.number >= (2, 15), f"Invalid processor type {name}")
        need(name == "neural_sparse_two_phase_processor", f"Invalid processor {name}")
        found = processor[name]
        known = ("tag", "description", "enabled", "two_phase_parameter")
        only(found, known, name)
        known = ("prune_ratio", "expansion_rate", "max_window_size")
        if self.number >= (2, 19):
            known += ("prune_type",)
        only(found["two_phase_parameter"], known, "two_phase_parameter")
        need(found["two_phase_parameter"]["expansion_rate"] >= 1, "expansion_rate")
        need(found["two_phase_parameter"]["max_window_size"] >= 50, "max_window_size")
        return found["two_phase_parameter"]

    # ------------------------------------------------------------------ bulk

    def bulk(self, name, body):
        index = self.index(name)
        need(body.endswith(b"\n"), "The bulk request must be terminated by a newline")
        lines = body[:-1].split(b"\n")
        items = []
        for action, source in zip(lines[::2], lines[1::2], strict=True):
            action, source = json.loads(action), json.loads(source)
            only(action, ("index",), "action")
            only(action["index"], ("_id",), "action")
            items.append(self.take(index, action["index"]["_id"], source))
        errors = any(item["index"]["status"] >= 300 for item in items)
        return {"took": 1, "errors": errors, "items": items}

    def take(self, index, doc_id, source):
        item = {"_id": doc_id, "status": 201}
        try:
            with self.lock:
                busy = self.busy_docs.get(doc_id)
                if busy:
                    status = busy.pop(0)
                    kind = "rejected_execution_exception"
                    kind = kind if status in (429, 503) else "mapper_parsing_exception"
                    raise Refused(status, kind, f"document {doc_id}")
            need(len(doc_id.encode()) <= 512, "id is too long")
            index["docs"][doc_id] = self.parsed(index["mappings"], source)
        except Refused as refused:
            item |= {"status": refused.status, "error": refused.body["error"]}
        return {"index": item}

    def parsed(self, mappings, source):
        found = {}
        for field, value in source.items():
            mapping = mappings["properties"].get(field)
            need(mapping, f"[{field}]", "strict_dynamic_mapping_exception")
            if mapping["type"] in ("keyword", "text"):
                need(isinstance(value, str), f"[{field}] of type {type(value)}")
                continue
            need(isinstance(value, dict), "fields must be json objects")
            for key, weight in value.items():
                need(isinstance(weight, (int, float)), f"[{key}] is no number")
                need(weight >= 2**-126, f"[{key}] must be a positive normal float")
                digits = mapping["type"] != "sparse_vector" or key.isdigit()
                need(digits, "fields should be valid integer")
            found[field] = {key: feature(weight) for key, weight in value.items()}
        return found

    # ---------------------------------------------------------------- search

    def search(self, index, body, params):
        known = ("size", "_source", "query", "search_pipeline")
        only(body, known, "search")
        only(params, ("search_pipeline",), "parameters")
        size = body.get("size", 10)
        need(size <= 10_000, "Result window is too large")
        field, tokens, most = self.query(index, body["query"])
        phases = None
        if "search_pipeline" in body:
            phases = self.pipeline(body["search_pipeline"])
        elif params.get("search_pipeline") != "_none":
            default = index["settings"].get("search.default_pipeline")
            name = params.get("search_pipeline", default)
            phases = self.pipelines[name] if name else None
        ranked = self.ranked(index, field, tokens, size, phases)
        ranked = ranked[: min(size, most or size)]
        hits = [{"_id": doc, "_score": score} for score, doc in ranked]
        shards = {"total": 1, "successful": 1, "failed": 0}
        return {"timed_out": False, "_shards": shards, "hits": {"hits": hits}}

    def query(self, index, query):
        """Field and tokens of either form of query, and the most results."""
        (name,), most = query, None
        if name == NEURAL:
            ((field, inner),) = query[name].items()
            need(self.number >= (2, 14), f"[{NEURAL}] unknown token after query_tokens")
            mapping = index["mappings"]["properties"].get(field, {})
            approximate = mapping.get("type") == "sparse_vector"
            known = ("query_tokens", "method_parameters")
            only(inner, known if approximate else known[:1], NEURAL)
            tokens = inner["query_tokens"]
            if approximate:
                most = self.tuned(inner.get("method_parameters", {}), tokens)
            need(all(0 < w <= 64 for w in tokens.values()), "weight must be in (0, 64]")
        else:
            need(name == "bool", f"unknown query [{name}]")
            tokens = {}
            for clause in query["bool"]["should"]:
                inner = clause[FEATURE]
                only(inner, ("field", "boost", "linear"), FEATURE)
                field, _, token = inner["field"].rpartition(".")
                tokens[token] = inner["boost"]
        need(field in index["mappings"]["properties"], f"no field [{field}]")
        return field, tokens, most

    def tuned(self, parameters, tokens):
        """Seismic reads the heaviest tokens alone, and finds ``k`` in each segment."""
        only(parameters, ("k", "top_n", "heap_factor"), "method_parameters")
        for name in parameters:
            need(parameters[name] > 0, f"{name} must be positive")
        for key in sorted(tokens, key=tokens.get)[: -parameters.get("top_n", 10)]:
            del tokens[key]
        return parameters.get("k", 10)

    def ranked(self, index, field, tokens, size, phases):
        high, low = dict(tokens), {}
        if phases and phases["prune_ratio"]:
            need(phases.get("prune_type", "max_ratio") == "max_ratio", "only this one")
            limit = phases["prune_ratio"] * max(tokens.values())
            high = {key: weight for key, weight in tokens.items() if weight >= limit}
            low = {key: weight for key, weight in tokens.items() if weight < limit}
        docs = index["visible"]
        found = {}
        for doc_id, fields in docs.items():
            weights = fields.get(field, {})
            shared = [key for key in high if key in weights]
            if shared:
                found[doc_id] = sum(high[key] * weights[key] for key in shared)
        ranked = sorted(((s, doc) for doc, s in found.items()), key=lambda x: -x[0])
        if low:
            window = int(size * phases["expansion_rate"])
            need(window <= phases["max_window_size"], "The two-phase window size")
            best = []
            for score, doc in ranked[:window]:
                weights = docs[doc][field]
                more = sum(w * weights.get(key, 0) for key, w in low.items())
                best.append((score + more, doc))
            ranked = sorted(best + ranked[window:], key=lambda x: -x[0])
        return ranked


def _handler(fake):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            size = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(size)
            parts = urllib.parse.urlsplit(self.path)
            params = dict(urllib.parse.parse_qsl(parts.query))
            path = urllib.parse.unquote(parts.path)
            request = (self.command, path, params, dict(self.headers), body)
            with fake.lock:
                fake.requests.append(request)
                fault = next((f for f in fake.faults if f[0] in path), None)
                if fault:
                    fake.faults.remove(fault)
            fault = fault[1] if fault else {}
            if fault.get("drop") == "before":
                self.close_connection = True
                return
            if "status" in fault:
                busy = Refused(fault["status"], "busy", "try later")
                status, answer = fault["status"], fault.get("body", busy.body)
            else:
                try:
                    status, answer = 200, fake.answer(*request)
                except Refused as refused:
                    status, answer = refused.status, refused.body
            if fault.get("drop") == "after":
                self.close_connection = True
                return
            text = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in fault.get("headers", {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PUT = do_POST = do_DELETE = handle_any

        def log_message(self, *args):
            pass

    return Handler


@contextlib.contextmanager
def serving(fake, context=None):
    """The URL at which the fake answers while the block lasts; https by a context."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        scheme = "http" if context is None else "https"
        yield f"{scheme}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
