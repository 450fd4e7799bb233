"""The service as an ASGI application: what each address answers.

The event loop reads, waits and writes; everything else happens on the thread of
:class:`jaxir.serve.batching.Batcher`.
"""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Sized
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from jaxir import __version__
from jaxir.serve.access import Keys, Log
from jaxir.serve.batching import Batcher
from jaxir.serve.bodies import BodyReader
from jaxir.serve.fields import Limits, ServiceError
from jaxir.serve.guard import Guard, not_found
from jaxir.serve.metrics import BATCHES, CONTENT_TYPE, Metrics
from jaxir.serve.openapi import openapi
from jaxir.serve.pages import page_files
from jaxir.serve.requests import read_embedding, read_rerank, read_search
from jaxir.serve.systems import Ranker, Systems
from jaxir.serve.works import Query

__all__ = ["Service"]

_METRICS = (
    ("jaxir_requests_total", "counter", "Requests answered.", ()),
    ("jaxir_request_seconds", "histogram", "From the first byte to the last.", None),
    ("jaxir_in_flight", "gauge", "Requests that wait or are worked on.", ()),
    ("jaxir_rejected_total", "counter", "Requests answered 429.", ()),
    ("jaxir_deadline_total", "counter", "Requests answered 504.", ()),
    ("jaxir_connections", "gauge", "Open connections.", ()),
    ("jaxir_connections_dropped_total", "counter", "Connections closed unasked.", ()),
    ("jaxir_waiting_items", "gauge", "Queries, pairs and texts that wait.", ()),
    ("jaxir_batch_items", "histogram", "Items worked on in one call.", BATCHES),
    ("jaxir_batch_seconds", "histogram", "Seconds of one call.", None),
    ("jaxir_wait_seconds", "histogram", "Seconds until a call begins.", None),
    ("jaxir_ready", "gauge", "Whether requests are taken.", ()),
    ("jaxir_index_docs", "gauge", "Documents of an index.", ()),
    ("jaxir_index_swaps_total", "counter", "Indexes exchanged for newer ones.", ()),
    ("jaxir_index_failures_total", "counter", "Indexes that could not be opened.", ()),
    ("jaxir_info", "gauge", "The version.", ()),
    ("process_cpu_seconds_total", "counter", "Seconds of processors, all threads.", ()),
    ("process_start_time_seconds", "gauge", "Of the Unix epoch.", ()),
)


class Service:
    """The application; :attr:`app` is what a server runs.

    Args:
      systems: what is open; may be filled later, before :attr:`state` is ``ready``.
      limits: of requests.
      keys: API keys.
      log: where requests are written down.
      hosts: names besides its addresses that requests may call the service by; None for
        any.

    Attributes:
      state: ``loading``, ``ready`` or ``closing``.
      metrics: what ``/metrics`` answers.
      connections: that are open, where a server tells.
    """

    def __init__(
        self,
        systems: Systems,
        *,
        limits: Limits | None = None,
        keys: Keys | None = None,
        log: Log | None = None,
        hosts: Collection[str] | None = None,
    ) -> None:
        self.systems, self.limits = systems, limits or Limits()
        self.keys, self.log, self.hosts = keys or Keys(), log or Log(), hosts
        self.connections: Sized = ()
        self.metrics, self.state, self.in_flight = _metrics(), "loading", 0
        self.batcher = Batcher(self._observe)
        self._bodies = BodyReader(self.limits)
        self._page = page_files()
        self.app: ASGIApp = Guard(self, self._routes())

    def _observe(self, name: str, items: int, waited: float, worked: float) -> None:
        self.metrics.observe("jaxir_batch_items", items, work=name)
        self.metrics.observe("jaxir_batch_seconds", worked, work=name)
        self.metrics.observe("jaxir_wait_seconds", waited, work=name)

    def _routes(self) -> Starlette:
        gets: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/": self._index, "/static/{name:path}": self._static,
            "/health": self._health, "/ready": self._ready,
            "/metrics": self._metrics_text, "/indexes": self._indexes,
            "/openapi.json": self._openapi,
        }  # fmt: skip
        posts: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/search": self._search, "/v1/embeddings": self._embeddings,
            # Jina's and Cohere's clients ask at addresses with a version.
            **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), self._rerank),
        }  # fmt: skip
        routes = [Route(path, work, methods=["GET"]) for path, work in gets.items()]
        routes += [Route(path, work, methods=["POST"]) for path, work in posts.items()]
        app = Starlette(routes=routes)
        app.router.redirect_slashes = False
        return app

    # --- what is there ----------------------------------------------------------------

    async def _index(self, request: Request) -> Response:
        return self._file("index.html")

    async def _static(self, request: Request) -> Response:
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        found = self._page.get(name)
        if found is None:
            raise not_found()
        headers = {"cache-control": "no-cache"}
        return Response(found.content, media_type=found.media_type, headers=headers)

    async def _health(self, request: Request) -> Response:
        return _json({"status": "ok", "version": __version__})

    async def _ready(self, request: Request) -> Response:
        return _json({"status": self.state}, 200 if self.state == "ready" else 503)

    async def _metrics_text(self, request: Request) -> Response:
        self.metrics.set("jaxir_in_flight", self.in_flight)
        self.metrics.set("jaxir_connections", len(self.connections))
        self.metrics.set("jaxir_waiting_items", self.batcher.waiting())
        self.metrics.set("jaxir_ready", int(self.state == "ready"))
        self.metrics.set("process_cpu_seconds_total", time.process_time())
        self.metrics.forget("jaxir_index_docs")
        for name, system in self.systems.open.items():
            self.metrics.set("jaxir_index_docs", system.searcher.num_docs, index=name)
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def _indexes(self, request: Request) -> Response:
        return _json({"indexes": self.systems.infos()})

    async def _openapi(self, request: Request) -> Response:
        return _json(openapi(self.systems, self.limits, keys=bool(self.keys)))

    # --- what is worked for -----------------------------------------------------------

    async def _admitted(
        self, request: Request, answer: Callable[[float], Awaitable[Response]]
    ) -> Response:
        """An answer within the deadline, unless too many are waiting already."""
        if self.in_flight >= self.limits.queue:
            self.metrics.add("jaxir_rejected_total")
            raise ServiceError(
                429, f"{self.in_flight} requests are waiting; try again later",
                kind="rate_limit_error",
                headers={"retry-after": str(self.batcher.retry_after())},
            )  # fmt: skip
        self.in_flight += 1
        note, task, gone = request.scope["jaxir"], asyncio.current_task(), False

        def leave() -> None:
            nonlocal gone
            if task is not None:
                gone = task.cancel()

        note["leave"] = leave  # whoever sees the client go calls it
        try:
            return await answer(note["deadline"])
        except asyncio.CancelledError:
            if task is None or not gone:
                raise
            task.uncancel()
            raise ServiceError(499, "the client left") from None
        except TimeoutError:
            if time.monotonic() < note["deadline"] - 0.1:
                raise  # not ours: of a disk, say
            self.metrics.add("jaxir_deadline_total")
            raise ServiceError(
                504, f"no answer within {self.limits.deadline:g} seconds",
                kind="timeout_error",
            ) from None  # fmt: skip
        finally:
            note.pop("leave", None)
            self.in_flight -= 1

    async def _body(self, request: Request) -> bytes:
        if self.state == "loading":
            raise ServiceError(
                503, "indexes are being opened; see /ready", kind="server_error",
                headers={"retry-after": "2"},
            )  # fmt: skip
        if self.state == "closing" and self.systems == Systems():
            raise ServiceError(503, "the service is closing", kind="server_error")
        return await self._bodies.read(request)

    async def _search(self, request: Request) -> Response:
        body, start = await self._body(request), time.perf_counter()
        if not self.systems.open:
            raise ServiceError(400, "index: none is open; start with --index",
                               param="index")  # fmt: skip
        asked = read_search(body, self.limits, self.systems.capabilities())
        # Both of one moment: an exchange in between changes nothing for this request.
        system, ranker = self.systems.open[asked.system], self.systems.ranker
        request.scope["jaxir"] |= {
            "index": asked.system, "k": asked.k, "count": len(asked.queries),
            "queries": asked.queries,
        }  # fmt: skip

        async def answer(deadline: float) -> Response:
            documents = asked.return_documents or asked.rerank > 0
            depth = max(asked.k, asked.rerank)  # no hit is without the same score
            queries = [
                Query(text, depth, asked.explain, documents) for text in asked.queries
            ]
            found = await self.batcher.submit(system.work(depth), queries, deadline)
            if asked.rerank and ranker is not None:
                found = await self._reranked(ranker, asked.queries, found, deadline)
            results = []
            for text, hits in zip(asked.queries, found, strict=True):
                if not asked.return_documents:
                    hits = [_without_documents(hit) for hit in hits]
                results.append(_dumps({"query": text, "hits": hits[: asked.k]}))
                await asyncio.sleep(0)  # others have their turn between long texts
            head = _dumps({"index": asked.system, "took_ms": _ms(start)})
            return _text(f'{head[:-1]},"results":[{",".join(results)}]}}')

        return await self._admitted(request, answer)

    async def _reranked(
        self,
        ranker: Ranker,
        queries: list[str],
        found: list[list[dict[str, Any]]],
        deadline: float,
    ) -> list[list[dict[str, Any]]]:
        """The hits of each query by the reranker's scores."""
        pairs = [
            (query, f"{hit.get('title', '')} {hit.get('text', '')}".strip())
            for query, hits in zip(queries, found, strict=True)
            for hit in hits
        ]
        scores = iter(await self.batcher.submit(ranker.work, pairs, deadline))
        ordered = []
        for hits in found:
            scored = [hit | {"score": next(scores)} for hit in hits]
            scored.sort(key=lambda hit: -hit["score"])  # stable: ties as they were
            ordered.append([hit | {"rank": i + 1} for i, hit in enumerate(scored)])
        return ordered

    async def _rerank(self, request: Request) -> Response:
        body, ranker = await self._body(request), self.systems.ranker
        if ranker is None:
            raise ServiceError(400, "no reranker here; start with --rerank MODEL")
        asked = read_rerank(body, self.limits, [ranker.name])
        request.scope["jaxir"] |= {
            "count": len(asked.documents),
            "queries": [asked.query],
        }

        async def answer(deadline: float) -> Response:
            pairs = [(asked.query, document) for document in asked.documents]
            scores = await self.batcher.submit(ranker.work, pairs, deadline)
            order = sorted(range(len(scores)), key=lambda i: -scores[i])
            results: list[dict[str, Any]] = [
                {"index": i, "relevance_score": scores[i]} for i in order[: asked.top_n]
            ]
            if asked.return_documents:
                for result in results:
                    result["document"] = {"text": asked.documents[result["index"]]}
            name = uuid.uuid4().hex
            return _json({"id": name, "model": ranker.name, "results": results})

        return await self._admitted(request, answer)

    async def _embeddings(self, request: Request) -> Response:
        body, embedder = await self._body(request), self.systems.embedder
        if embedder is None:
            raise ServiceError(400, "no dense model here; start with --model MODEL")
        asked = read_embedding(body, self.limits, [embedder.name], embedder.width)
        request.scope["jaxir"] |= {"count": len(asked.inputs), "queries": asked.inputs}

        async def answer(deadline: float) -> Response:
            work = embedder.works[asked.side]
            found = await self.batcher.submit(work, asked.inputs, deadline)
            parts = []
            for i, (vector, _) in enumerate(found):
                value: Any = vector.tolist()
                if asked.base64:
                    value = base64.b64encode(vector.astype("<f4").tobytes()).decode()
                parts.append(
                    _dumps({"object": "embedding", "index": i, "embedding": value})
                )
                await asyncio.sleep(0)
            tokens = sum(embedded.tokens for embedded in found)
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            head = _dumps({"object": "list", "model": embedder.name, "usage": usage})
            return _text(f'{head[:-1]},"data":[{",".join(parts)}]}}')

        return await self._admitted(request, answer)


def _metrics() -> Metrics:
    metrics = Metrics()
    for name, kind, text, bounds in _METRICS:
        if bounds:
            metrics.describe(name, kind, text, bounds)
        else:
            metrics.describe(name, kind, text)
    metrics.set("jaxir_info", 1, version=__version__)
    metrics.set("process_start_time_seconds", time.time())
    for name in ("jaxir_rejected_total", "jaxir_deadline_total"):
        metrics.add(name, 0)
    return metrics


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _json(value: Any, status: int = 200) -> Response:
    return Response(_dumps(value), status, media_type="application/json")


def _text(body: str) -> Response:
    return Response(body, media_type="application/json")


def _ms(start: float) -> float:
    return round(1e3 * (time.perf_counter() - start), 3)


def _without_documents(hit: dict[str, Any]) -> dict[str, Any]:
    return {key: hit[key] for key in hit if key not in ("title", "text")}
