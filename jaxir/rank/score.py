"""Scores of query-document pairs: tokenized once a text, batched by length.

A pair is one text to a cross-encoder, so nothing of it can be computed beforehand but
its tokens: those of a query serve all its documents, those of a document all the
queries that it is a candidate of.
"""

import hashlib
import textwrap
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxir.bucketing import default_batch_tokens, run_batches
from jaxir.errors import InputError
from jaxir.mesh import make_mesh, replicated
from jaxir.nn.bert import EncoderOutput
from jaxir.numerics import check_finite
from jaxir.pairs import Pair, pair_format
from jaxir.rank import model as rank_model
from jaxir.text import Tokenizer
from jaxir.types import Params, TokenBatch

__all__ = ["EncodedLists", "PairScorer"]

KEPT_TOKENS = 2**24
"""Tokens of documents that a scorer remembers: 64 MiB."""

_MANY = 1024  # pairs at once that are worth a compilation for each finer length

# Batches, and tokens, whose pairs take the decoder's step together: enough for its
# weights to be read seldom, few enough for the encoder's states to wait in memory.
_GROUP, _GROUP_TOKENS = 8, 2**16


class EncodedLists(NamedTuple):
    """Lists of pairs as tokens, what :meth:`PairScorer.encode` gives.

    Attributes:
      pairs: the pairs of all lists, one list after another.
      sizes: documents of each list.
    """

    pairs: list[Pair]
    sizes: list[int]

    def cut_docs(self) -> list[int]:
        """For each list, how many pairs lost the end of their document."""
        return self._count([pair.cut > 0 for pair in self.pairs])

    def cut_queries(self) -> list[int]:
        """For each list, how many pairs lost the end of their query."""
        return self._count([pair.query_cut > 0 for pair in self.pairs])

    def _count(self, flags: Sequence[bool]) -> list[int]:
        parts = np.split(np.array(flags, bool), np.cumsum(self.sizes)[:-1])
        return [int(part.sum()) for part in parts[: len(self.sizes)]]


@lru_cache(maxsize=32)
def _compiled(config: Any) -> tuple[Callable, Callable | None]:
    """The jitted functions of an architecture, whatever its weights.

    ``score(params, tokens)`` and None; or, for a decoder on a CPU,
    ``encode(params, tokens)`` and ``decode(params, group)``: a batch as small as caches
    want has so few pairs that reading the decoder's weights for it costs more than the
    decoder's work.
    """
    if config.network != "encdec" or jax.default_backend() != "cpu":
        return jax.jit(partial(rank_model.score, config)), None
    return (
        jax.jit(partial(rank_model.encode, config)),
        jax.jit(partial(_decode_group, config)),
    )


def _decode_group(
    config: Any, params: Params, group: tuple[EncoderOutput, ...]
) -> tuple[jax.Array, ...]:
    """The scores of encoded batches of one shape, each ``[rows]``."""
    # [rows, ...] each -> [rows, batches, ...] -> [rows * batches, ...]: each of several
    # devices keeps its rows.
    encoded = jax.tree.map(
        lambda *x: jnp.stack(x, axis=1).reshape(-1, *x[0].shape[1:]), *group
    )
    scores = rank_model.decode(config, params, encoded)
    return tuple(scores.reshape(-1, len(group)).T)


class PairScorer:
    """A cross-encoder, its parameters on the devices.

    Pairs longer than ``max_length`` lose the end of their document, never of their
    query unless it alone is too long.

    Args:
      config: a ``rank.model`` configuration.
      params: its parameters.
      tokenizer: of its training.
      mesh: devices that share each batch; by default all devices of this process.
      batch_tokens: tokens of a batch; None for ``default_batch_tokens()``.
      max_length: most tokens of a pair; None for the model's own.
      many: pad to ``bucketing.fine_lengths`` and fill every batch, which is for many
        pairs; None decides by the pairs of each call.
      name: of the model, for errors.

    Attributes:
      cut_docs: pairs that lost the end of their document, so far.
      cut_queries: pairs that lost the end of their query, so far.

    Raises:
      InputError: ``max_length`` is beyond the model's positions, or leaves no room, or
        ``batch_tokens`` is below 1.  When scoring: a score that is not finite.
    """

    def __init__(
        self,
        config: Any,
        params: Params,
        tokenizer: Tokenizer,
        *,
        mesh: Mesh | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        many: bool | None = None,
        name: str = "model",
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError("batch_tokens", str(batch_tokens), "at least 1")
        self.many, self.name = many, name
        self.batch_tokens = batch_tokens or default_batch_tokens()
        self.max_length = config.max_length if max_length is None else max_length
        # T5 configurations have a template, BERT's two segments have none.
        self._format = pair_format(
            tokenizer,
            template=getattr(config, "template", None),
            eos=getattr(config, "eos", True),
        )
        limit, least = config.backbone.max_length, self._format.fixed + 1
        if not least <= self.max_length <= limit:
            raise InputError(
                "max_length", f"{self.max_length} tokens", f"{least} to {limit}"
            )
        self._pad_id = tokenizer.pad_id
        self.cut_docs = self.cut_queries = 0
        self.mesh = make_mesh() if mesh is None else mesh
        self._first, self._decode = _compiled(config)
        self._group = 1
        if self._decode is not None:
            self._group = max(1, min(_GROUP, _GROUP_TOKENS // self.batch_tokens))
        self._params = jax.device_put(params, replicated(self.mesh))
        self._kept: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._kept_tokens = 0

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Scores float32 ``[len(pairs)]`` of ``(query, document)`` pairs, in order."""
        queries = [query for query, _ in pairs]
        lists = self.encode(queries, [[doc] for _, doc in pairs])
        return self._scores(lists.pairs)

    def score_lists(
        self, queries: Sequence[str], docs: Sequence[Sequence[str]]
    ) -> list[np.ndarray]:
        """Scores of each query's documents: a ``jaxir.scorers.Scorer``."""
        return self.score(self.encode(queries, docs))

    def encode(
        self, queries: Sequence[str], docs: Sequence[Sequence[str]]
    ) -> EncodedLists:
        """The tokens of lists; on the host, so that it may run beside :meth:`score`.

        Args:
          queries: a text for each list; equal ones are tokenized once.
          docs: the document texts of each list; those of recent calls are remembered.

        Raises:
          ValueError: there are more queries than lists, or fewer.
        """
        heads = self._format.encode_queries(queries)
        keys = [[_key(doc) for doc in group] for group in docs]
        bodies = self._documents(keys, docs)
        joined = [
            self._format.join(head, bodies[key], self.max_length)
            for head, group in zip(heads, keys, strict=True)
            for key in group
        ]
        self.cut_docs += sum(pair.cut > 0 for pair in joined)
        self.cut_queries += sum(pair.query_cut > 0 for pair in joined)
        return EncodedLists(joined, [len(group) for group in docs])

    def _documents(
        self, keys: Sequence[Sequence[bytes]], docs: Sequence[Sequence[str]]
    ) -> dict[bytes, np.ndarray]:
        """Tokens of these documents, whose keys they go by."""
        texts = {
            key: doc
            for group_keys, group in zip(keys, docs, strict=True)
            for key, doc in zip(group_keys, group, strict=True)
        }
        fresh = [key for key in texts if key not in self._kept]
        encoded = self._format.encode_docs(
            [texts[key] for key in fresh], self.max_length
        )
        found = dict(zip(fresh, encoded, strict=True))
        for key, ids in found.items():
            self._kept[key] = ids
            self._kept_tokens += len(ids)
        for key in texts:
            found[key] = self._kept[key]
            self._kept.move_to_end(key)
        while self._kept_tokens > KEPT_TOKENS:
            _, oldest = self._kept.popitem(last=False)
            self._kept_tokens -= len(oldest)
        return found

    def score(self, lists: EncodedLists) -> list[np.ndarray]:
        """Scores float32 ``[L]`` of each list."""
        ends = np.cumsum(lists.sizes)[:-1]
        return np.split(self._scores(lists.pairs), ends)[: len(lists.sizes)]

    def _scores(self, pairs: Sequence[Pair]) -> np.ndarray:
        scores = np.empty(len(pairs), np.float32)
        boundaries = None
        if self._format.typed:
            boundaries = np.array([pair.boundary for pair in pairs], np.int64)
        many = len(pairs) >= _MANY if self.many is None else self.many
        for rows, values in run_batches(
            self._compute, [pair.ids for pair in pairs], max_length=self.max_length,
            pad_id=self._pad_id, mesh=self.mesh, batch_tokens=self.batch_tokens,
            fill=many, fine=many, boundaries=boundaries, finish=self._finish,
            group=self._group,
        ):  # fmt: skip
            scores[rows] = values

        def text(place: int) -> str:
            whole = self._format.tokenizer.decode(pairs[place].ids)
            return repr(textwrap.shorten(whole, 60))

        check_finite(scores, self.name, text)
        return scores

    def _compute(self, tokens: TokenBatch) -> Any:
        return self._first(self._params, tokens)

    def _finish(self, results: list) -> Sequence[jax.Array]:
        """The scores of a group's batches."""
        if self._decode is None:
            return results
        if len(results) > 1:  # two sizes are compiled, one batch and a full group
            results = results + results[-1:] * (self._group - len(results))
        return self._decode(self._params, tuple(results))


def _key(text: str) -> bytes:
    """What a text is remembered by: documents can be far longer than their tokens."""
    return hashlib.blake2b(
        text.encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()
