"""JPQ: a bi-encoder whose documents are codes, and whose centroids are trained.

Documents are quantized once, with the vectors of the document tower and the centroids
``assignment`` that a codec came with.  Training then moves the query tower and the
``centroids`` that codes stand for, while rotation, document tower and codes stay (Zhan
et al. 2021, "Jointly Optimizing Query Encoder and Product Quantization", section 3).

A query is represented by its table ``[M, C]`` of products with all centroids, a
document by its codes ``[M]``.

Parameters: ``{"query": tower, "doc": tower, "codec": {"rotation" [E, E], "centroids"
[M, C, W], "assignment" [M, C, W]}}``.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxir.errors import InputError
from jaxir.nn.tower import (
    TowersConfig,
    apply_tower,
    embedding_size,
    init_towers,
)
from jaxir.pq.codec import Codec, CodecSpec, lookup, quantize, tables
from jaxir.types import Params, TokenBatch

__all__ = [
    "JpqConfig",
    "adapt_params",
    "assigning_codec",
    "codec_params",
    "codec_spec",
    "doc_vectors",
    "encode_doc",
    "encode_query",
    "init_params",
    "match",
    "query_vectors",
    "searching_codec",
]


@dataclasses.dataclass(frozen=True)
class JpqConfig(TowersConfig):
    """A bi-encoder of separate towers, and the codec of its documents.

    Attributes:
      towers: always ``separate``: documents stay as they were encoded.
      subvectors: ``M``, parts of a vector.
      bits: of a part's code, 8 or 4.

    Raises:
      InputError: as ``TowersConfig``; shared towers; parts of unequal width.
    """

    towers: str = "separate"
    subvectors: int = 24
    bits: int = 8

    def __post_init__(self) -> None:
        """Checks towers and codec."""
        super().__post_init__()
        if self.towers != "separate":
            raise InputError(
                "JpqConfig.towers", repr(self.towers), "'separate'",
                "training moves the queries' tower alone",
            )  # fmt: skip
        codec_spec(self)


def codec_spec(config: JpqConfig) -> CodecSpec:
    """The shape of a configuration's codec."""
    return CodecSpec(embedding_size(config), config.subvectors, config.bits)


def init_params(config: JpqConfig, rng: jax.Array) -> Params:
    """Fresh towers, an identity for the rotation, and normal centroids.

    Real centroids come from :mod:`jaxir.pq.fit_codec`.

    Args:
      config: the model.
      rng: a random key.

    Example::

      >>> from jaxir.nn.bert import BertConfig
      >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> params = init_params(JpqConfig(tiny, subvectors=2), jax.random.key(0))
      >>> sorted(params), params["codec"]["centroids"].shape
      (['codec', 'doc', 'query'], (2, 256, 4))
    """
    towers_rng, codec_rng = jax.random.split(rng)
    spec = codec_spec(config)
    codec = Codec(jnp.eye(spec.width), jax.random.normal(codec_rng, spec.shape))
    return init_towers(config, towers_rng) | {"codec": codec_params(codec)}


def codec_params(codec: Codec) -> Params:
    """The parameters that a codec begins as: it assigns codes and is searched with."""
    return {
        "rotation": jnp.asarray(codec.rotation, jnp.float32),
        "centroids": jnp.array(codec.centroids, jnp.float32),
        # A copy: a training step that donates its state may not own one array twice.
        "assignment": jnp.array(codec.centroids, jnp.float32),
    }


def adapt_params(config: JpqConfig, params: Params, target: JpqConfig) -> Params:
    """Parameters of one configuration for another that starts from them.

    Raises:
      InputError: a codec of another shape.
    """
    found, expected = codec_spec(config), codec_spec(target)
    if found != expected:
        raise InputError(
            "codec", f"{found.subvectors} parts of {found.bits} bits",
            f"{expected.subvectors} parts of {expected.bits} bits",
            "build another index of the bi-encoder (jaxir index --kind pq)",
        )  # fmt: skip
    return params


def searching_codec(params: Params) -> Codec:
    """The codec that queries are scored with: its centroids are trained."""
    codec = params["codec"]
    return Codec(codec["rotation"], codec["centroids"])


def assigning_codec(params: Params) -> Codec:
    """The codec that documents are given codes with: it never changes."""
    codec = params["codec"]
    return Codec(codec["rotation"], codec["assignment"])


def query_vectors(
    config: JpqConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, "B E"]:
    """Vectors of queries ``[B, T]``, not rotated."""
    return apply_tower(config, params, tokens, "query", rng=rng)


def doc_vectors(
    config: JpqConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, "B E"]:
    """Vectors of documents ``[B, T]`` before they are quantized."""
    return apply_tower(config, params, tokens, "doc", rng=rng)


def encode_query(
    config: JpqConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, "B M C"]:
    """Tables of queries ``[B, T]``: products of their parts with every centroid.

    Args:
      config: the model.
      params: of :func:`init_params`.
      tokens: the queries.
      rng: draws dropout when given.
    """
    return tables(
        searching_codec(params), query_vectors(config, params, tokens, rng=rng)
    )


def encode_doc(
    config: JpqConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> UInt8[Array, "B M"]:
    """Codes of documents ``[B, T]``; arguments as :func:`encode_query`."""
    return quantize(
        assigning_codec(params), doc_vectors(config, params, tokens, rng=rng)
    )


def match(
    config: JpqConfig, queries: Float[Array, "B M C"], docs: UInt8[Array, "N M"]
) -> Float[Array, "B N"]:
    """Scores of every query with every document, in float32.

    Args:
      config: the model.
      queries: of :func:`encode_query`.
      docs: of :func:`encode_doc`.
    """
    del config
    return lookup(queries, docs.T)
