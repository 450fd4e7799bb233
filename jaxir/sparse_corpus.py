"""Documents to rows of a sparse matrix: a whole collection into shards, or a few texts.

A row holds the tokens whose weight is above 0, of the tens of thousands that there are:
what is not in it is never written, nor sent from an accelerator.
"""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxir.checkpoints.model_dir import Model
from jaxir.data.collection import Collection
from jaxir.encode import SHARD_ROWS, Side, TextEncoder
from jaxir.errors import InputError
from jaxir.files import atomic_file
from jaxir.progress import say
from jaxir.shards import diverged, encode_shards
from jaxir.sparse.postings import SparseRows
from jaxir.types import TokenBatch

__all__ = [
    "RowFiles",
    "SparseCorpus",
    "SparseTextEncoder",
    "encode_sparse_corpus",
    "join_rows",
]

_ROOM = 512
"""Tokens of a row that are sent from an accelerator at first; doubled where few."""


class _Columns(NamedTuple):
    """Rows as they leave an accelerator: what is above 0 first, the rest is nothing."""

    tokens: Array
    weights: Array
    size: Array
    largest: Array


class _Dense(NamedTuple):
    """Rows as they are where the host reads the device's memory."""

    weights: Array
    largest: Array


class SparseTextEncoder(TextEncoder):
    """One side of a sparse model, of whose weights only those above 0 come back.

    Args:
      model: of kind ``sparse``.
      side: ``"doc"``, or ``"query"`` of a model with a query encoder.
      prune_ratio: weights of a text are kept that are above so much of its largest.
      compact: gather them on the device; by default where that is not a CPU.
      mesh: devices that share each batch; by default all of this process.
      batch_tokens: tokens of a batch; None for ``default_batch_tokens()``.
      max_length: cuts texts shorter than the model's own limit.

    Raises:
      InputError: a model of another kind, or a length or a ratio that is not possible.
    """

    def __init__(
        self,
        model: Model,
        *,
        side: Side,
        prune_ratio: float = 0.0,
        compact: bool | None = None,
        mesh: Mesh | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
    ) -> None:
        if model.kind != "sparse":
            raise InputError("model", f"of kind {model.kind!r}", "kind 'sparse'")
        if not 0 <= prune_ratio < 1:
            raise InputError("prune_ratio", str(prune_ratio), "from 0 to less than 1")
        super().__init__(
            model, side=side, mesh=mesh, batch_tokens=batch_tokens,
            max_length=max_length,
        )  # fmt: skip
        self.special_ids = np.asarray(model.config.special_ids, np.int32)
        self.vocab_size = model.config.backbone.vocab_size
        self._room = min(_ROOM, self.vocab_size)
        self._compact = jax.default_backend() != "cpu" if compact is None else compact
        self._pruned = jax.jit(partial(_pruned, prune_ratio))

    def _compute(self, tokens: TokenBatch) -> Any:
        dense = self._pruned(super()._compute(tokens))
        return _gathered(self._room, dense) if self._compact else dense

    def rows(
        self, ids: Sequence[np.ndarray], *, where: object = "model", bar: Any = None
    ) -> SparseRows:
        """The rows of texts, in their order; a text without a word has an empty one.

        Args:
          ids: of :meth:`tokenize`.
          where: what is named if the model gives NaN.
          bar: moves with the texts.

        Raises:
          InputError: weights that are not finite.
        """
        found: list[tuple[np.ndarray, np.ndarray]] = [_EMPTY] * len(ids)
        todo = [row for row, text in enumerate(ids) if len(self.words(text))]
        if bar is not None:
            bar.update(len(ids) - len(todo))
        while todo:
            again = []
            for places, got in self.encode_ids([ids[row] for row in todo], fill=True):
                if not np.isfinite(got.largest).all():
                    raise diverged(where)
                for place, row in zip(places, _split(got), strict=True):
                    if row is None:
                        again.append(todo[place])
                    else:
                        found[todo[place]] = row
                if bar is not None:
                    bar.update(len(places))
            # A row that has more tokens than were sent is computed once more.
            self._room = min(2 * self._room, self.vocab_size) if again else self._room
            todo = again
            if bar is not None:
                bar.update(-len(again))
        counts = [0, *(len(tokens) for tokens, _ in found)]
        return SparseRows(
            np.cumsum(counts, dtype=np.int64),
            _concatenated([tokens for tokens, _ in found], np.int32),
            _concatenated([weights for _, weights in found], np.float32),
        )

    def words(self, ids: np.ndarray) -> np.ndarray:
        """The different tokens of a text that are words, rising."""
        return np.setdiff1d(ids, self.special_ids)


_EMPTY = (np.zeros(0, np.int32), np.zeros(0, np.float32))


def _concatenated(parts: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype, copy=False)


def _pruned(ratio: float, weights: Float[Array, "B V"]) -> _Dense:
    """Weights above ``ratio`` of their row's largest; the others become 0."""
    largest = jnp.max(weights, axis=1)  # NaN where there is one
    kept = weights > ratio * largest[:, None]
    return _Dense(jnp.where(kept, weights, 0.0), largest)


@partial(jax.jit, static_argnums=0)
def _gathered(room: int, dense: _Dense) -> _Columns:
    """The first ``room`` weights above 0 of each row, in the order of their tokens."""
    weights, largest = dense
    rows, size = weights.shape
    above = weights > 0
    place = jnp.cumsum(above, axis=1) - 1
    place = jnp.where(above, place, room)  # what is out of range is dropped
    row = jnp.broadcast_to(jnp.arange(rows)[:, None], (rows, size))
    token = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32)[None, :], (rows, size))
    tokens = jnp.zeros((rows, room), jnp.int32).at[row, place].set(token, mode="drop")
    values = jnp.zeros((rows, room)).at[row, place].set(weights, mode="drop")
    return _Columns(tokens, values, jnp.sum(above, axis=1), largest)


def _split(
    got: _Dense | _Columns,
) -> Iterator[tuple[np.ndarray, np.ndarray] | None]:
    """Tokens and weights of each row; None of one that there was not room for."""
    if isinstance(got, _Columns):
        room = got.tokens.shape[1]
        for tokens, weights, count in zip(
            got.tokens, got.weights, got.size, strict=True
        ):
            whole = count <= room
            yield (tokens[:count].copy(), weights[:count].copy()) if whole else None
        return
    for weights in got.weights:
        tokens = np.flatnonzero(weights).astype(np.int32)
        yield tokens, weights[tokens]


def join_rows(parts: Sequence[SparseRows]) -> SparseRows:
    """Rows below each other.

    Example::

      >>> one = SparseRows(np.array([0, 1]), np.array([7], np.int32), np.ones(1))
      >>> join_rows([one, one]).offsets.tolist()
      [0, 1, 2]
    """
    counts = [np.diff(part.offsets) for part in parts]
    return SparseRows(
        np.cumsum(np.concatenate([[0], *counts]), dtype=np.int64),
        _concatenated([part.tokens for part in parts], np.int32),
        _concatenated([part.weights for part in parts], np.float32),
    )


class RowFiles(Sequence[SparseRows]):
    """Shards of rows, each read when it is asked for.

    Args:
      paths: what :func:`encode_sparse_corpus` wrote.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return RowFiles(self._paths[place])
        with np.load(self._paths[place], allow_pickle=False) as file:
            return SparseRows(file["offsets"], file["tokens"], file["weights"])


class SparseCorpus(NamedTuple):
    """Rows of a collection's documents, in shards of consecutive ones.

    Attributes:
      paths: ``.npz`` files, in order.
      num_docs: rows of all of them.
      postings: weights of all rows.
      empty: rows without a weight.
      words: different tokens of the texts, summed over the documents.
      expanded: weights of tokens that are not in the text.
    """

    paths: tuple[Path, ...]
    num_docs: int
    postings: int
    empty: int
    words: int
    expanded: int

    def open(self) -> RowFiles:
        """The shards, each read when it is asked for."""
        return RowFiles(self.paths)


def encode_sparse_corpus(
    model: Model,
    collection: Collection,
    directory: str | os.PathLike,
    *,
    batch_tokens: int | None = None,
    shard_rows: int = SHARD_ROWS,
    max_length: int | None = None,
    prune_ratio: float = 0.0,
    mesh: Mesh | None = None,
) -> SparseCorpus:
    """Encodes every document into shards; an interrupted run goes on where it stopped.

    Memory is that of one shard and a few batches, whatever the collection's size.
    Documents without a weight, above all those without a word, are counted and said.

    Source: pruning by the largest weight as OpenSearch's ``max_ratio`` does it.

    Args:
      model: of kind ``sparse``.
      collection: from ``open_collection``.
      directory: for the shards: new, empty, or from an earlier call.
      batch_tokens: tokens of a batch; None for ``default_batch_tokens()``.
      shard_rows: documents of a shard.
      max_length: cuts documents shorter than the model's own limit.
      prune_ratio: keeps weights strictly above so much of the document's largest.
      mesh: devices that share each batch; by default all of this process.

    Raises:
      InputError: a model of another kind; an empty collection; a directory of something
        else; a full disk; a model that gives values which are not finite.
    """
    encoder = SparseTextEncoder(
        model, side="doc", prune_ratio=prune_ratio, mesh=mesh,
        batch_tokens=batch_tokens, max_length=max_length,
    )  # fmt: skip

    def write(path: Path, ids: list[np.ndarray], bar: Any) -> None:
        _write_shard(path, encoder, ids, bar)

    paths = encode_shards(
        encoder, model, collection, directory,
        settings={"prune_ratio": prune_ratio}, shard_rows=shard_rows,
        name="rows-{:05d}.npz", write=write,
    )  # fmt: skip
    sums = np.zeros(4, np.int64)
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            sums += file["sums"]
    num_docs, (postings, empty, words, expanded) = len(collection.docs), sums.tolist()
    if empty:
        say(f"{empty:,} of {num_docs:,} documents have no weights: nothing finds them")
    return SparseCorpus(tuple(paths), num_docs, postings, empty, words, expanded)


def _write_shard(
    path: Path, encoder: SparseTextEncoder, ids: list[np.ndarray], bar: Any
) -> None:
    rows = encoder.rows(ids, where=path, bar=bar)
    words = expanded = 0
    for row, text in enumerate(ids):
        own = encoder.words(text)
        tokens = rows.tokens[rows.offsets[row] : rows.offsets[row + 1]]
        words += len(own)
        expanded += len(tokens) - len(np.intersect1d(tokens, own, assume_unique=True))
    empty = int(np.sum(np.diff(rows.offsets) == 0))
    sums = np.array([len(rows.tokens), empty, words, expanded], np.int64)
    with atomic_file(path, "wb") as stream:
        np.savez(stream, sums=sums, **rows._asdict())
