"""What a client may ask for: the bodies of each address."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxir.serve.fields import Fields, Limits, read_body, wrong

__all__ = [
    "EXPLAINED",
    "Capabilities",
    "EmbeddingRequest",
    "RerankRequest",
    "SearchRequest",
    "most_k",
    "read_embedding",
    "read_rerank",
    "read_search",
]

EXPLAINED = 100
"""Hits of a query that are explained: those below would take the service's time."""


class Capabilities(NamedTuple):
    """What an index can be asked for besides its results.

    Attributes:
      explain: the tokens behind a score.
      rerank: another order by the service's reranker.
    """

    explain: bool
    rerank: bool


class SearchRequest(NamedTuple):
    """A body of ``/search``.

    Attributes:
      queries: texts.
      k: results of each.
      system: the index's name.
      rerank: candidates that are reranked, 0 for none.
      explain: whether hits have the tokens they share with the query.
      return_documents: whether hits have title and text.
    """

    queries: list[str]
    k: int
    system: str
    rerank: int
    explain: bool
    return_documents: bool


class RerankRequest(NamedTuple):
    """A body of ``/rerank``.

    Attributes:
      query: its text.
      documents: texts.
      top_n: how many are answered.
      return_documents: whether results have their texts.
    """

    query: str
    documents: list[str]
    top_n: int
    return_documents: bool


class EmbeddingRequest(NamedTuple):
    """A body of ``/v1/embeddings``.

    Attributes:
      inputs: texts.
      base64: whether vectors are answered as base64 of little-endian float32.
      side: ``query`` or ``doc``.
    """

    inputs: list[str]
    base64: bool
    side: str


def most_k(limits: Limits, several: bool) -> int:
    """The largest ``k``: less where several queries are asked at once.

    Args:
      limits: of the service.
      several: whether the body has ``queries``.
    """
    return min(limits.k, 100) if several else limits.k


SEARCH_NAMES = (
    "query", "queries", "k", "index", "rerank", "explain", "return_documents"
)  # fmt: skip
RERANK_NAMES = (
    "query", "documents", "texts", "top_n", "return_documents", "return_text", "model"
)  # fmt: skip
EMBEDDING_NAMES = (
    "input", "model", "encoding_format", "input_type", "dimensions", "user"
)  # fmt: skip


def read_search(
    body: bytes, limits: Limits, indexes: Mapping[str, Capabilities]
) -> SearchRequest:
    """What a body of ``/search`` asks for.

    Args:
      body: what was sent.
      limits: of the service.
      indexes: what can be asked of each; the first is the default.

    Raises:
      ServiceError: 400, or 404 for an index that is not here.

    Example::

      >>> indexes = {"main": Capabilities(explain=False, rerank=False)}
      >>> read_search(b'{"query": "rain", "k": 3}', Limits(), indexes).k
      3
    """
    fields = Fields(read_body(body, SEARCH_NAMES), limits)
    if ("query" in fields) == ("queries" in fields):
        given = "both" if "query" in fields else "neither"
        wrong("query", f"{given} query and queries", "one of them")
    if "query" in fields:
        queries = [fields.text("query")]
    else:
        queries = fields.texts("queries", limits.queries)
    index = fields.name("index", next(iter(indexes)), tuple(indexes))
    explain = fields.flag("explain", False)
    if explain and not indexes[index].explain:
        able = [name for name, can in indexes.items() if can.explain]
        wrong("explain", f"true for {index}", "an index of kind sparse"
               + (f", as {able[0]}" if able else ""))  # fmt: skip
    most = most_k(limits, "queries" in fields)
    rerank = _candidates(fields, min(limits.documents, most))
    if rerank and not indexes[index].rerank:
        wrong("rerank", f"asked of {index}", "an index with documents and a service "
               "with a reranker (--rerank and --texts)")  # fmt: skip
    k = fields.count("k", min(10, most), most)
    documents = fields.flag("return_documents", True)
    return SearchRequest(queries, k, index, rerank, explain, documents)


def _candidates(fields: Fields, most: int) -> int:
    """How many documents of each query are reranked."""
    if "rerank" not in fields:
        return 0
    if fields.holds("rerank", bool):
        return min(100, most) if fields.flag("rerank", False) else 0
    return fields.count("rerank", 0, most)


def read_rerank(body: bytes, limits: Limits, models: Sequence[str]) -> RerankRequest:
    """What a body of ``/rerank`` asks for.

    Args:
      body: what was sent.
      limits: of the service.
      models: names that the reranker goes by.

    Raises:
      ServiceError: 400, or 404 for a model that is not here.

    Example::

      >>> read_rerank(b'{"query": "a", "texts": ["b", "c"]}', Limits(), []).top_n
      2
    """
    fields = Fields(read_body(body, RERANK_NAMES), limits)
    fields.name("model", "", models)
    query = fields.text("query")
    if ("documents" in fields) == ("texts" in fields):
        given = "both" if "texts" in fields else "neither"
        wrong("documents", f"{given} documents and texts", "one of them")
    name = "documents" if "documents" in fields else "texts"
    documents = fields.texts(name, limits.documents, fields.document)
    top_n = fields.count("top_n", len(documents), limits.documents)
    if "return_documents" in fields and "return_text" in fields:
        wrong("return_text", "both return_documents and return_text", "one of them")
    shown = "return_text" if "return_text" in fields else "return_documents"
    return RerankRequest(query, documents, top_n, fields.flag(shown, False))


def read_embedding(
    body: bytes, limits: Limits, models: Sequence[str], width: int
) -> EmbeddingRequest:
    """What a body of ``/v1/embeddings`` asks for.

    Args:
      body: what was sent.
      limits: of the service.
      models: names that the model goes by.
      width: of its vectors.

    Raises:
      ServiceError: 400, or 404 for a model that is not here.

    Example::

      >>> read_embedding(b'{"input": "rain"}', Limits(), [], 384).inputs
      ['rain']
    """
    fields = Fields(read_body(body, EMBEDDING_NAMES), limits)
    fields.name("model", "", models)
    if "input" not in fields:
        wrong("input", "missing", "a string or an array of strings")
    if fields.holds("input", list):
        inputs = fields.texts("input", limits.inputs)
    else:
        inputs = [fields.text("input")]
    if fields.count("dimensions", width, 2**20) != width:
        wrong("dimensions", "another width", f"{width}, the model's")
    if "user" in fields:
        fields.text("user")  # of OpenAI's clients, for their own records
    as_base64 = fields.choice("encoding_format", ("float", "base64")) == "base64"
    is_query = fields.choice("input_type", ("document", "query")) == "query"
    return EmbeddingRequest(inputs, as_base64, "query" if is_query else "doc")
