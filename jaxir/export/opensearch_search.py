"""Queries of an index of kind ``sparse``, answered by a live OpenSearch cluster."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxir.errors import InputError
from jaxir.export.opensearch import pipeline_body, query_body, token_names
from jaxir.export.opensearch_client import Client, quoted
from jaxir.export.opensearch_config import OpenSearchConfig
from jaxir.export.opensearch_files import keyed
from jaxir.export.sparse_source import open_terms, vocabulary
from jaxir.files import sha256_file
from jaxir.manifest import read_manifest
from jaxir.progress import progress_bar
from jaxir.sparse.search import TwoPhase

__all__ = ["search_cluster"]

_SEARCHES = 4  # queries at a time

Run = dict[str, dict[str, float]]


def search_cluster(
    directory: str | os.PathLike,
    client: Client,
    name: str,
    queries: Mapping[str, str],
    *,
    k: int = 1000,
    two_phase: TwoPhase | None = None,
) -> Run:
    """A run: the ``k`` best documents of each query as a cluster finds them.

    Queries become tokens and weights here, so that the cluster needs no model.  Without
    ``two_phase`` every token counts, whatever pipeline the index has by itself.

    Args:
      directory: the index that was loaded, which has what queries need.
      client: the cluster.
      name: of the index there.
      queries: texts by id.
      k: results of each query.
      two_phase: how a search of two phases is done; None for an exact one.

    Returns:
      ``{query_id: {doc_id: score}}``, best first.

    Raises:
      InputError: no such index, one that was not loaded to its end or that another
        model encoded; queries that OpenSearch refuses.
    """
    version = client.version()
    directory = Path(directory)
    manifest = read_manifest(directory, kind="sparse")
    where = f"{client.url}/{name}"
    found = client.index(name)
    if found is None:
        raise InputError(where, "no such index", "what jaxir index --engine loaded")
    meta = (found["mappings"].get("_meta") or {}).get("jaxir")
    if not meta or not meta.get("loaded"):
        state = "was not loaded by jaxir" if not meta else "is not loaded to its end"
        raise InputError(where, state, "a whole index", "run jaxir index --engine")
    same = meta["model_fingerprint"] == manifest.model_fingerprint
    if not manifest.model_fingerprint:  # of BM25: its weights are those of one index
        same = same and meta["manifest"] == sha256_file(directory / "manifest.json")
    if not same:
        raise InputError(
            where, "encoded by another model than that of the queries", "the same",
            "name the index that was loaded with --index",
        )  # fmt: skip
    config = OpenSearchConfig(
        field=meta["field"], vector_name=meta["vector_name"], version=version,
        two_phase=two_phase,
    )  # fmt: skip
    ids, texts = list(queries), list(queries.values())
    keys = token_names(config, vocabulary(directory, manifest))
    terms = keyed(open_terms(directory, manifest)(texts, ids), keys)
    bodies = [
        (query_id, query_body(config, tokens, k, where=f"query {query_id}"))
        for query_id, tokens in zip(ids, terms, strict=True)
        if tokens
    ]
    # A pipeline of the request's own leaves nothing behind in the cluster.
    params = {} if two_phase is not None else {"search_pipeline": "_none"}
    inline = {} if two_phase is None else {"search_pipeline": pipeline_body(config)}

    def ask(pair: tuple[str, dict[str, Any]]) -> dict[str, float]:
        path = f"/{quoted(name)}/_search"
        reply = client.request("POST", path, {**pair[1], **inline}, params=params)
        return _results(reply.body, f"{where}: query {pair[0]}")

    run: Run = {query_id: {} for query_id in ids}
    with ThreadPoolExecutor(_SEARCHES) as pool:
        answers = pool.map(ask, bodies)
        bar = progress_bar(answers, total=len(bodies), label="search", unit="query")
        for (query_id, _), results in zip(bodies, bar, strict=True):
            run[query_id] = results
    return run


def _results(body: Any, where: str) -> dict[str, float]:
    failed = body.get("_shards", {}).get("failed", 0)
    if failed or body.get("timed_out"):
        raise InputError(
            where, f"incomplete: {failed} shards failed" if failed else "timed out",
            "an answer of all shards", "search again",
        )  # fmt: skip
    return {hit["_id"]: float(hit["_score"]) for hit in body["hits"]["hits"]}
