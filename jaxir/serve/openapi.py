"""What is served, as an OpenAPI 3.1 document: of this service, not of any.

It names the indexes that are open, the limits that hold, and only what can be asked
here: a schema that is met is answered, one that is not is refused.
"""

from collections.abc import Mapping
from typing import Any

from jaxir import __version__
from jaxir.serve.fields import Limits
from jaxir.serve.requests import Capabilities, most_k
from jaxir.serve.systems import Systems

__all__ = ["openapi"]

Schema = dict[str, Any]


def openapi(systems: Systems, limits: Limits, *, keys: bool) -> Schema:
    """The document.

    Args:
      systems: what is open.
      limits: of requests.
      keys: whether a key is needed.
    """
    paths: Schema = {
        "/health": _get("Whether the process is there.", _HEALTH),
        "/ready": _get("Whether requests are answered.", _READY, extra={"503": _READY}),
        "/indexes": _get("The open indexes.", _INDEXES, keys=keys),
        "/metrics": _get("Prometheus' text format.", None, keys=keys),
        "/openapi.json": _get("This document.", {"type": "object"}),
    }
    if systems.open:
        body = search_schema(systems.capabilities(), limits)
        paths["/search"] = _post("Search an index.", body, _SEARCH, keys)
    if systems.ranker is not None:
        body = rerank_schema(systems.ranker.name, limits)
        paths["/rerank"] = _post(_RERANK_SUMMARY, body, _RERANK, keys)
    if systems.embedder is not None:
        body = embedding_schema(systems.embedder.name, systems.embedder.width, limits)
        paths["/v1/embeddings"] = _post("Embed texts.", body, _EMBEDDINGS, keys)
    document: Schema = {
        "openapi": "3.1.0",
        "info": {"title": "jaxir", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "headers": {
                "X-Request-ID": {
                    "description": "The request's own, or a new one.",
                    "schema": {"type": "string"},
                }
            },
        },
    }
    if keys:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    return document


# --- bodies ---------------------------------------------------------------------------


def _object(properties: Schema, required: list[str], **more: Any) -> Schema:
    return {
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": False, **more,
    }  # fmt: skip


def _text(limits: Limits) -> Schema:
    return {"type": "string", "maxLength": limits.text_chars}


def _array(items: Schema, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def search_schema(indexes: Mapping[str, Capabilities], limits: Limits) -> Schema:
    """Bodies of ``/search``: one query or several, of indexes that can do the same."""
    default = next(iter(indexes))
    alike: dict[Capabilities, list[str]] = {}
    for name, can in indexes.items():
        alike.setdefault(can, []).append(name)
    variants = []
    for can, names in alike.items():
        for several in (False, True):
            key = "queries" if several else "query"
            text = _text(limits)
            most = most_k(limits, several)
            k = {"type": "integer", "minimum": 1, "maximum": most,
                 "default": min(10, most)}  # fmt: skip
            properties: Schema = {
                key: _array(text, limits.queries) if several else text,
                "k": k,
                "index": {"type": "string", "enum": names},
                "return_documents": {"type": "boolean", "default": True},
                "explain": {"type": "boolean", "default": False},
                "rerank": {"type": "boolean", "default": False},
            }
            if default in names:
                properties["index"]["default"] = default
            if not can.explain:
                properties["explain"]["const"] = False
            if can.rerank:
                count = {"type": "integer", "minimum": 1,
                         "maximum": min(limits.documents, most)}  # fmt: skip
                properties["rerank"] = {
                    "oneOf": [{"type": "boolean"}, count], "default": False,
                    "description": "Candidates that are reranked, at least k of them.",
                }  # fmt: skip
            else:
                properties["rerank"]["const"] = False
            required = [key] + ["index"] * (default not in names)
            title = f"{key} of {', '.join(names)}"
            variants.append(_object(properties, required, title=title))
    return {"oneOf": variants}


_RERANK_SUMMARY = "Order documents; /v1/rerank and /v2/rerank are the same."


def rerank_schema(model: str, limits: Limits) -> Schema:
    """Bodies of ``/rerank``: ``documents``, or ``texts`` as TEI calls them."""
    text = _text(limits)
    document = {"oneOf": [text, _object({"text": text, "title": text}, ["text"])]}
    variants = []
    for name in ("documents", "texts"):
        for shown in ("return_documents", "return_text"):
            properties = {
                "query": text,
                name: _array(document, limits.documents),
                "top_n": {"type": "integer", "minimum": 1,
                          "maximum": limits.documents},
                shown: {"type": "boolean", "default": False},
                "model": {"type": "string", "enum": [model]},
            }  # fmt: skip
            # Of the variants exactly one holds: where nothing is said, the first.
            required = ["query", name] + [shown] * (shown == "return_text")
            variants.append(_object(properties, required))
    return {"oneOf": variants}


def embedding_schema(model: str, width: int, limits: Limits) -> Schema:
    """Bodies of ``/v1/embeddings``, as OpenAI's clients send them."""
    text = _text(limits)
    properties = {
        "input": {"oneOf": [text, _array(text, limits.inputs)]},
        "model": {"type": "string", "enum": [model]},
        "encoding_format": {"type": "string", "enum": ["float", "base64"]},
        "input_type": {"type": "string", "enum": ["query", "document"]},
        "dimensions": {"type": "integer", "const": width},
        "user": text,
    }
    return _object(properties, ["input"])


# --- answers --------------------------------------------------------------------------

_ERROR: Schema = _object(
    {
        "error": _object(
            {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
            },
            ["message", "type", "param"],
        )
    },
    ["error"],
)
_HEALTH = _object(
    {"status": {"const": "ok"}, "version": {"type": "string"}}, ["status", "version"]
)
_READY = _object(
    {"status": {"type": "string", "enum": ["ready", "loading", "closing"]}}, ["status"]
)
_NAME = {"type": ["string", "null"]}
_INDEXES = _object(
    {
        "indexes": {
            "type": "array",
            "items": _object(
                {
                    "name": {"type": "string"},
                    "kind": {"type": "string"},
                    "docs": {"type": "integer"},
                    "model": _NAME,
                    "reranker": _NAME,
                    "explain": {"type": "boolean"},
                    "documents": {"type": "boolean"},
                },
                ["name", "kind", "docs", "model", "reranker", "explain", "documents"],
            ),
        }
    },
    ["indexes"],
)
_MATCH = _object(
    {
        "token": {"type": "string"},
        "query_weight": {"type": "number"},
        "doc_weight": {"type": "number"},
        "score": {"type": "number"},
    },
    ["token", "query_weight", "doc_weight", "score"],
)
_HIT = _object(
    {
        "rank": {"type": "integer", "minimum": 1},
        "doc_id": {"type": "string"},
        "score": {"type": "number"},
        "title": {"type": "string"},
        "text": {"type": "string"},
        "matches": {"type": "array", "items": _MATCH},
    },
    ["rank", "doc_id", "score"],
)
_SEARCH = _object(
    {
        "index": {"type": "string"},
        "took_ms": {"type": "number", "minimum": 0},
        "results": {
            "type": "array",
            "items": _object(
                {
                    "query": {"type": "string"},
                    "hits": {"type": "array", "items": _HIT},
                },
                ["query", "hits"],
            ),
        },
    },
    ["index", "took_ms", "results"],
)
_RERANK = _object(
    {
        "id": {"type": "string"},
        "model": {"type": "string"},
        "results": {
            "type": "array",
            "items": _object(
                {
                    "index": {"type": "integer", "minimum": 0},
                    "relevance_score": {"type": "number"},
                    "document": _object({"text": {"type": "string"}}, ["text"]),
                },
                ["index", "relevance_score"],
            ),
        },
    },
    ["id", "model", "results"],
)
_EMBEDDINGS = _object(
    {
        "object": {"const": "list"},
        "model": {"type": "string"},
        "usage": _object(
            {
                "prompt_tokens": {"type": "integer"},
                "total_tokens": {"type": "integer"},
            },
            ["prompt_tokens", "total_tokens"],
        ),
        "data": {
            "type": "array",
            "items": _object(
                {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {
                        "oneOf": [
                            {"type": "array", "items": {"type": "number"}},
                            {"type": "string"},
                        ]
                    },
                },
                ["object", "index", "embedding"],
            ),
        },
    },
    ["object", "model", "usage", "data"],
)

_ERRORS = {
    "400": "The body is not what the schema says.",
    "401": "A key is needed.",
    "403": "Asked by a name (Host) that is not this service's.",
    "404": "No index or model of that name.",
    "408": "The body took too long.",
    "413": "The body is too large.",
    "415": "Not JSON.",
    "429": "Too many requests are waiting; Retry-After says when to come back.",
    "503": "Not ready; Retry-After says when to come back.",
    "504": "No answer within the deadline.",
}


def _content(schema: Schema | None) -> Schema:
    if schema is None:
        return {"text/plain": {"schema": {"type": "string"}}}
    return {"application/json": {"schema": schema}}


def _answered(
    description: str, schema: Schema | None, *, retry: bool = False
) -> Schema:
    headers: Schema = {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}
    if retry:
        headers["Retry-After"] = {"schema": {"type": "integer", "minimum": 1}}
    return {
        "description": description, "headers": headers, "content": _content(schema)
    }  # fmt: skip


def _refused(status: str) -> Schema:
    error = {"$ref": "#/components/schemas/Error"}
    return _answered(_ERRORS[status], error, retry=status in ("429", "503"))


_SECURITY: list[Schema] = [{"bearer": []}, {"key": []}]


def _get(
    summary: str,
    schema: Schema | None,
    *,
    extra: Mapping[str, Schema] | None = None,
    keys: bool = False,
) -> Schema:
    answers = {"200": _answered("The answer.", schema)}
    for status, other in (extra or {}).items():
        answers[status] = _answered("Not now.", other)
    if keys:
        answers["401"] = _refused("401")
    operation: Schema = {"summary": summary, "responses": answers}
    if keys:
        operation["security"] = _SECURITY
    return {"get": operation}


def _post(summary: str, body: Schema, schema: Schema, keys: bool) -> Schema:
    answers = {"200": _answered("The answer.", schema)}
    answers |= {s: _refused(s) for s in _ERRORS if keys or s != "401"}
    operation: Schema = {
        "summary": summary,
        "requestBody": {
            "required": True, "content": {"application/json": {"schema": body}}
        },
        "responses": answers,
    }  # fmt: skip
    if keys:
        operation["security"] = _SECURITY
    return {"post": operation}
