"""OpenSearch's requests for sparse vectors: mapping, settings, pipeline, queries.

Nothing here talks to a server or reads an index.  Before 2.14 a query is one
``rank_feature`` clause a token, which has the same scores.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxir.errors import InputError
from jaxir.export.opensearch_config import (
    PRUNE_TYPE,
    QUERY_TOKENS,
    SEISMIC,
    OpenSearchConfig,
)

__all__ = [
    "index_body",
    "json_keys",
    "loaded_settings",
    "pipeline_body",
    "query_body",
    "sparse_json",
    "stored_weights",
    "token_names",
]

_LARGEST_QUERY_WEIGHT = 64.0  # of Lucene's FeatureField.newLinearQuery
_SMALLEST_WEIGHT = float(
    np.finfo(np.float32).tiny
)  # FeatureField refuses subnormal numbers
_RESULT_WINDOW = 10_000  # index.max_result_window
_MOST_IDS = 1 << 15  # of a sparse_vector: larger ids are taken modulo that, in 16 bits


def index_body(
    config: OpenSearchConfig,
    *,
    meta: Mapping[str, Any],
    pipeline: str | None = None,
    largest_weight: float = 0.0,
) -> dict[str, Any]:
    """Body of ``PUT /NAME``: settings for loading, and the mapping.

    Until :func:`loaded_settings` are put, nothing is refreshed and no replica is
    written, as OpenSearch's guide for bulk loading has it.

    Args:
      config: how the vectors stand.
      meta: what the mapping's ``_meta`` shall tell of the index it was made of.
      pipeline: name of the search pipeline that requests go through by themselves.
      largest_weight: of a document; above it Seismic's quantisation must not cut.

    Example::

      >>> body = index_body(OpenSearchConfig(), meta={})
      >>> body["mappings"]["properties"]["text_sparse"]
      {'type': 'rank_features'}
    """
    settings: dict[str, Any] = {
        "number_of_shards": 1 if config.shards is None else config.shards,
        "number_of_replicas": 0,
        "refresh_interval": "-1",
    }
    if pipeline is not None:
        settings["search.default_pipeline"] = pipeline
    vector: dict[str, Any] = {"type": config.field}
    if config.field == "sparse_vector":
        settings["sparse"] = True
        vector["method"] = {
            "name": "seismic",
            "parameters": _seismic_parameters(config, largest_weight),
        }
    properties = {"id": {"type": "keyword"}, config.vector_name: vector}
    if config.text_name is not None:
        properties[config.text_name] = {"type": "text"}
    return {
        "settings": {"index": settings},
        "mappings": {
            "dynamic": "strict",
            "_meta": {"jaxir": dict(meta)},
            "properties": properties,
        },
    }


def _seismic_parameters(
    config: OpenSearchConfig, largest_weight: float
) -> dict[str, Any]:
    # At its default of 3 a larger weight would be cut.
    ceiling = {"quantization_ceiling_ingest": float(max(3, math.ceil(largest_weight)))}
    given = ceiling | dict(config.seismic)
    return {name: SEISMIC[name](value) for name, value in sorted(given.items())}


def loaded_settings(config: OpenSearchConfig) -> dict[str, Any]:
    """Body of ``PUT /NAME/_settings`` once every document is loaded."""
    replicas = 1 if config.replicas is None else config.replicas
    return {"index": {"refresh_interval": None, "number_of_replicas": replicas}}


def pipeline_body(config: OpenSearchConfig) -> dict[str, Any]:
    """Body of ``PUT /_search/pipeline/NAME`` for a two-phase search.

    Args:
      config: with ``two_phase``.

    Raises:
      InputError: it has none.
    """
    phases = config.two_phase
    if phases is None:
        raise InputError("two_phase", "not given", "what the pipeline shall do")
    parameter: dict[str, Any] = {
        "prune_ratio": phases.prune_ratio,
        "expansion_rate": phases.expansion_rate,
        "max_window_size": phases.max_window_size,
    }
    if config.number >= PRUNE_TYPE:
        parameter = {"prune_type": phases.prune_type, **parameter}
    processor = {
        "tag": "jaxir",
        "description": "tokens of high weight first, the others for the best documents",
        "enabled": True,
        "two_phase_parameter": parameter,
    }
    return {"request_processors": [{"neural_sparse_two_phase_processor": processor}]}


def query_body(
    config: OpenSearchConfig,
    tokens: Mapping[str, float],
    k: int,
    *,
    where: object = "query",
) -> dict[str, Any]:
    """Body of ``POST /NAME/_search`` for one query.

    Args:
      config: how the vectors stand.
      tokens: weight by key, keys as :func:`token_names` gives them.
      k: results.
      where: what an error calls the query.

    Raises:
      InputError: weights or a number of results that OpenSearch refuses.

    Example::

      >>> body = query_body(OpenSearchConfig(), {"river": 2.5}, 10)
      >>> body["query"]
      {'neural_sparse': {'text_sparse': {'query_tokens': {'river': 2.5}}}}
    """
    _check_results(config, k)
    for key, weight in tokens.items():
        if not 0 < weight <= _LARGEST_QUERY_WEIGHT:
            raise InputError(
                where, f"weight {weight:g} of token {key!r}",
                f"above 0 and at most {_LARGEST_QUERY_WEIGHT:g}, as OpenSearch has it",
            )  # fmt: skip
    name = config.vector_name
    query: dict[str, Any]
    if config.number >= QUERY_TOKENS:
        asked: dict[str, Any] = {"query_tokens": dict(tokens)}
        if config.field == "sparse_vector":
            # Left out, they are 10 each, however many results are asked for.
            asked["method_parameters"] = {"k": k, "top_n": max(len(tokens), 1)}
        query = {"neural_sparse": {name: asked}}
    else:
        clauses = [
            {"rank_feature": {"field": f"{name}.{key}", "boost": weight, "linear": {}}}
            for key, weight in tokens.items()
        ]
        query = {"bool": {"should": clauses}}
    return {"size": k, "_source": False, "query": query}


def _check_results(config: OpenSearchConfig, k: int) -> None:
    if not 1 <= k <= _RESULT_WINDOW:
        raise InputError("k", str(k), f"1 to {_RESULT_WINDOW}, as OpenSearch has it")
    if config.two_phase is not None:
        config.two_phase.window(k)  # refuses one that is too large


def token_names(config: OpenSearchConfig, names: Sequence[str]) -> list[str]:
    """The key of each token id in documents and queries.

    Args:
      config: how the vectors stand.
      names: the vocabulary's entries by id, empty where an id has none.

    Returns:
      One key an id; empty where the id can have none.  Before 2.14 that is so of names
      with a dot, which ``rank_feature`` would take for the name of a field.

    Raises:
      InputError: more token ids than a ``sparse_vector`` tells apart.

    Example::

      >>> token_names(OpenSearchConfig(field="sparse_vector"), ["[PAD]", "river"])
      ['0', '1']
    """
    if config.field == "sparse_vector":
        if len(names) > _MOST_IDS:
            raise InputError(
                "field", f"sparse_vector for a vocabulary of {len(names):,} tokens",
                f"at most {_MOST_IDS:,}: OpenSearch takes two of more for one",
                "rank_features has no such limit",
            )  # fmt: skip
        return [str(i) for i in range(len(names))]
    if config.number < QUERY_TOKENS:
        return ["" if "." in name else name for name in names]
    return list(names)


def json_keys(keys: Sequence[str]) -> list[str]:
    """Keys as they begin a member of a JSON object; empty ones stay so."""
    return [json.dumps(key, ensure_ascii=False) + ":" if key else "" for key in keys]


def sparse_json(keys: Sequence[str], weights: np.ndarray) -> str:
    """Weights by key as a JSON object, whose numbers read back as the same float32.

    What OpenSearch would refuse is left out: tokens without a key, and weights below
    the smallest normal float32.

    Args:
      keys: of :func:`json_keys`, one a weight.
      weights: float32.

    Example::

      >>> sparse_json(json_keys(["river", "clay"]), np.array([0.1, 2], np.float32))
      '{"river":0.100000001,"clay":2}'
    """
    found = zip(keys, weights.tolist(), strict=True)
    return "{" + ",".join(
        f"{key}{weight:.9g}"
        for key, weight in found
        if key and weight >= _SMALLEST_WEIGHT
    ) + "}"  # fmt: skip


def stored_weights(weights: np.ndarray) -> np.ndarray:
    """Weights as Lucene keeps them: 9 significant bits, cut off and not rounded.

    Equation: ``bits >> 15 << 15`` of the 32 bits of the number, which is smaller by
    less than 1/256 of itself.

    Source: Lucene's ``FeatureField``, which keeps the upper bits as a frequency.

    Args:
      weights: float32, positive, any shape.

    Example::

      >>> stored_weights(np.array([1.0, 1.005, 3.1], np.float32)).tolist()
      [1.0, 1.00390625, 3.09375]
    """
    bits = np.ascontiguousarray(weights, np.float32).view(np.uint32)
    return (bits >> np.uint32(15) << np.uint32(15)).view(np.float32)
