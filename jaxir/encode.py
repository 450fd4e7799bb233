"""Texts to vectors: a whole collection into memory-mapped shards, or a few texts.

Batches are those of :mod:`jaxir.bucketing`; while the devices encode a shard, the next
one is tokenized.  What a text becomes need not be one vector: the weights of a q-net
are a pytree whose leaves have the texts as their first axis.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxir.bucketing import Batch, default_batch_tokens, run_batches, start_batch
from jaxir.checkpoints.model_dir import Model
from jaxir.data.collection import Collection
from jaxir.dense.model import DenseConfig
from jaxir.errors import InputError, refuse_one
from jaxir.families import family
from jaxir.files import atomic_file
from jaxir.mesh import make_mesh, num_shards, replicated
from jaxir.shards import diverged, encode_shards
from jaxir.text import bucket_lengths, bucket_of
from jaxir.types import TokenBatch

__all__ = [
    "EncodedCorpus",
    "TextEncoder",
    "as_bi_encoder",
    "compiled_match",
    "encode_corpus",
    "encode_texts",
]

SHARD_ROWS = 4_096
"""Documents of a shard: what an interrupted run may lose."""

Side = Literal["query", "doc"]


@lru_cache(maxsize=32)
def _compiled(kind: str, side: Side, config: Any) -> Callable:
    """One jitted function for each architecture, whatever its weights."""
    chosen = family(kind)
    encode = chosen.encode_query if side == "query" else chosen.encode_doc
    if encode is None:
        raise without_vectors(kind)
    return jax.jit(partial(encode, config))


@lru_cache(maxsize=32)
def compiled_match(kind: str, config: Any) -> Callable:
    """``match(queries, docs) -> [B, N]`` of what the encoders of both sides give.

    Raises:
      InputError: the kind has none, for it reads query and document together.
    """
    match = family(kind).match
    if match is None:
        raise without_vectors(kind)
    return jax.jit(partial(match, config))


def without_vectors(kind: str) -> InputError:
    """The mistake of a model that documents are not encoded with."""
    return InputError(
        "model", f"of kind {kind!r}, which gives no vectors", "a bi-encoder",
        "a cross-encoder serves `jaxir rerank`",
    )  # fmt: skip


class TextEncoder:
    """One side of a model, its parameters on the devices.

    Args:
      model: from ``load_model``.
      side: ``"query"`` or ``"doc"``.
      mesh: devices that share each batch; by default all devices of this process.
      batch_tokens: tokens of a batch; None for ``default_batch_tokens()``.
      max_length: cuts texts shorter than the model's own limit.

    Raises:
      InputError: ``max_length`` is beyond the model's positions, or the model is of a
        kind that has no vectors.
    """

    def __init__(
        self,
        model: Model,
        *,
        side: Side,
        mesh: Mesh | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
    ) -> None:
        self._encode = _compiled(model.kind, side, model.config)
        self.side = side
        self.batch_tokens = batch_tokens or default_batch_tokens()
        self.tokenizer = model.tokenizer
        own_length = getattr(model.config, f"{side}_length")
        limit = getattr(model.config, "backbone", None)
        limit = getattr(limit, "max_length", own_length)
        self.max_length = own_length if max_length is None else max_length
        if not 2 < self.max_length <= limit:
            raise InputError(
                f"{side} length", f"{self.max_length} tokens", f"3 to {limit}"
            )
        self.template = getattr(model.config, f"{side}_template")
        self.mesh = make_mesh() if mesh is None else mesh
        self._params = jax.device_put(model.params, replicated(self.mesh))

    def tokenize(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text within the template."""
        if self.template != "{text}":
            texts = [self.template.format(text=text) for text in texts]
        return self.tokenizer.encode(texts, self.max_length)

    def start(self, ids: Sequence[np.ndarray], batch: Batch) -> Any:
        """Enqueues a batch; each leaf ``[rows, ...]`` is fetched by ``np.asarray``."""
        return start_batch(
            self._compute, ids, batch, pad_id=self.tokenizer.pad_id, mesh=self.mesh
        )

    def on_devices(self, texts: Sequence[str], rows: int) -> Any:
        """Representations of a few texts in one batch, left on the devices.

        The q-nets of a batch can be a hundred megabytes, which the host need not see.

        Args:
          texts: at least one, at most ``rows``; the last one fills the batch up.
          rows: of the batch; compiled once for each number and each length of
            ``text.bucket_lengths``.

        Returns:
          Leaves ``[rows, ...]``.
        """
        ids = self.tokenize(texts)
        longest = max(len(tokens) for tokens in ids)
        length = bucket_of(longest, bucket_lengths(self.max_length))
        # A repeated text and not an empty one: no padding that could give NaN.
        filled = np.minimum(np.arange(rows), len(ids) - 1)
        return self.start(ids, Batch(filled, (rows, length)))

    def rows_within(self, num_bytes: int, *, at_most: int) -> int:
        """Texts of a batch whose representations fit in so many bytes; at least one.

        Args:
          num_bytes: of all devices together.
          at_most: texts.

        Returns:
          A multiple of the devices that share a batch.
        """
        shape = (1, bucket_lengths(self.max_length)[0])
        one = TokenBatch(
            jax.ShapeDtypeStruct(shape, np.int32), jax.ShapeDtypeStruct(shape, bool)
        )
        leaves = jax.tree.leaves(jax.eval_shape(self._compute, one))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        rows, devices = min(max(num_bytes // size, 1), at_most), num_shards(self.mesh)
        return -(-rows // devices) * devices

    def encode_ids(
        self, ids: Sequence[np.ndarray], *, fill: bool = False
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Positions and vectors of each batch; see ``bucketing.run_batches``."""
        return run_batches(
            self._compute, ids, max_length=self.max_length, mesh=self.mesh,
            pad_id=self.tokenizer.pad_id, batch_tokens=self.batch_tokens, fill=fill,
        )  # fmt: skip

    def _compute(self, tokens: TokenBatch) -> Any:
        return self._encode(self._params, tokens)

    def __call__(self, texts: Sequence[str]) -> Any:
        """Vectors ``[len(texts), E]`` of texts, in their order, in host memory.

        A pytree of numpy arrays where a text becomes one.
        """
        ids = self.tokenize(texts)
        out: Any = None
        for rows, found in self.encode_ids(ids):
            if out is None:
                out = jax.tree.map(partial(_room, len(texts)), found)
            for whole, part in zip(*map(jax.tree.leaves, (out, found)), strict=True):
                whole[rows] = part
        if out is None:
            shape = (2 * num_shards(self.mesh), bucket_lengths(self.max_length)[0])
            empty = self.start([], Batch(np.zeros(0, np.int64), shape))
            return jax.tree.map(partial(_room, 0), empty)
        return out


def _room(rows: int, like: Any) -> np.ndarray:
    return np.empty((rows, *like.shape[1:]), like.dtype)


def encode_texts(
    model: Model, texts: Sequence[str], *, side: Side, mesh: Mesh | None = None
) -> Any:
    """Vectors of a few texts.

    Args:
      model: from ``load_model``.
      texts: any number of them.
      side: ``"query"`` or ``"doc"``: which tower, template and length.
      mesh: devices that share the work; by default all.

    Raises:
      InputError: one text for the texts, another side, or a model without vectors.

    Returns:
      float32 ``[len(texts), E]``; of a Hypencoder's queries the weights of their q-nets
      (:class:`jaxir.hyper.qnet.QNetWeights`), each ``[len(texts), ...]``.
    """
    refuse_one("texts", texts)
    if side not in ("query", "doc"):
        raise InputError("side", repr(side), "'query' or 'doc'")
    return TextEncoder(model, side=side, mesh=mesh)(texts)


class EncodedCorpus(NamedTuple):
    """Vectors of a collection, in shards of consecutive rows.

    Attributes:
      paths: ``.npy`` files, in order.
      num_docs: rows of all of them.
      width: ``E``.
    """

    paths: tuple[Path, ...]
    num_docs: int
    width: int

    def open(self) -> list[np.ndarray]:
        """Memory-mapped ``[rows, E]`` arrays."""
        return [np.load(path, mmap_mode="r") for path in self.paths]


def encode_corpus(
    model: Model,
    collection: Collection,
    directory: str | os.PathLike,
    *,
    batch_tokens: int | None = None,
    shard_rows: int = SHARD_ROWS,
    max_length: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    mesh: Mesh | None = None,
) -> EncodedCorpus:
    """Encodes every document into shards; an interrupted run goes on where it stopped.

    Memory is that of one shard and a few batches, whatever the collection's size.
    Shards are written whole; ``encoding.json`` remembers of what they are, and shards
    of another model, collection or setting are discarded and made anew.

    Args:
      model: from ``load_model``.
      collection: from ``open_collection``.
      directory: for the shards: new, empty, or from an earlier call.
      batch_tokens: tokens of a batch; None for ``default_batch_tokens()``.
      shard_rows: documents of a shard.
      max_length: cuts documents shorter than the model's own limit.
      dtype: of the stored vectors.
      mesh: devices that share each batch; by default all of this process.

    Raises:
      InputError: an empty collection; a directory of something else; a full disk; a
        model that gives values which are not finite.
    """
    encoder = TextEncoder(
        model, side="doc", mesh=mesh, batch_tokens=batch_tokens, max_length=max_length
    )

    def write(path: Path, ids: list[np.ndarray], bar: Any) -> None:
        _write_shard(path, encoder, ids, dtype, bar)

    paths = encode_shards(
        encoder, model, collection, directory,
        settings={"dtype": dtype}, shard_rows=shard_rows, name="vectors-{:05d}.npy",
        write=write,
    )  # fmt: skip
    width = np.load(paths[0], mmap_mode="r").shape[1]
    return EncodedCorpus(tuple(paths), len(collection.docs), width)


def _write_shard(
    path: Path, encoder: TextEncoder, ids: list[np.ndarray], dtype: str, bar: Any
) -> None:
    out: np.ndarray | None = None
    for rows, vectors in encoder.encode_ids(ids, fill=True):
        if out is None:
            out = np.empty((len(ids), vectors.shape[1]), dtype)
        if not np.isfinite(vectors).all():
            raise diverged(path)
        largest = np.finfo(out.dtype).max
        if (beyond := np.abs(vectors).max(initial=0.0)) > largest:
            raise InputError(
                path, f"a value of {beyond:.3g}", f"at most {largest:.0f}, {dtype}'s "
                "largest", "index with --dtype float32",
            )  # fmt: skip
        out[rows] = vectors
        bar.update(len(rows))
    assert out is not None  # a shard has at least one document
    with atomic_file(path, "wb") as stream:
        np.save(stream, out)


def as_bi_encoder(model: Model) -> Model:
    """The towers of a JPQ model as the bi-encoder they are: vectors, not yet codes.

    Args:
      model: of kind ``jpq``; one of kind ``dense`` is returned as it is.
    """
    if model.kind == "dense":
        return model
    names = [field.name for field in dataclasses.fields(DenseConfig)]
    config = DenseConfig(**{name: getattr(model.config, name) for name in names})
    towers = {name: part for name, part in model.params.items() if name != "codec"}
    return model._replace(kind="dense", config=config, params=towers)
