"""BERT's masking: some tokens of a text are hidden, and are what is predicted.

Devlin et al. 2019 (arXiv 1810.04805), section 3.1: 15 % of the tokens, of which 80 %
become ``[MASK]``, 10 % another token, and 10 % stay.  The masks are drawn anew in every
epoch (Liu et al. 2019).
"""

import dataclasses
import hashlib
from typing import Any, NamedTuple

import numpy as np

from jaxir.data.packing import Chunks, RowBatches, pack_rows
from jaxir.errors import InputError
from jaxir.text import Tokenizer

__all__ = [
    "MaskBatch",
    "MaskBatches",
    "MaskConfig",
    "choose_masked",
    "make_mask_batches",
    "word_starts",
]

Array = Any  # numpy on the host, jax.Array on a device


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """How texts are masked and put into batches; the rates are BERT's.

    Attributes:
      batch_size: rows of a global batch, over all processes.
      input_length: tokens of a row, special tokens included.
      mask_rate: part of the tokens that are to be predicted.
      whole_words: all pieces of a word are hidden, or none.
      packed: short texts share a row, a separator between them, and do see each other
        (RoBERTa's full sentences); otherwise a row is one text.
      min_tokens: documents and ends of documents of fewer tokens are left out.
      seed: of the order and the masks.

    Raises:
      InputError: a number out of range.
    """

    batch_size: int = 128
    input_length: int = 128
    mask_rate: float = 0.15
    whole_words: bool = False
    packed: bool = True
    min_tokens: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name, low in (
            ("batch_size", 1), ("input_length", 8), ("min_tokens", 2), ("seed", 0),
        ):  # fmt: skip
            if getattr(self, name) < low:
                raise InputError(name, str(getattr(self, name)), f"at least {low}")
        if not 0 < self.mask_rate < 1:
            raise InputError("mask_rate", str(self.mask_rate), "within 0 and 1")

    @property
    def slots(self) -> int:
        """Predictions that a row has room for, a multiple of 8."""
        return -(-max(1, round(self.input_length * self.mask_rate)) // 8) * 8


class MaskBatch(NamedTuple):
    """Rows of masked texts; the predictions of a row stand in ``M`` slots.

    Attributes:
      ids: int32 ``[B, T]`` what the encoder reads.
      mask: bool ``[B, T]`` true at real tokens.
      positions: int32 ``[B, M]`` places of the tokens to be predicted, rising.
      targets: int32 ``[B, M]`` the tokens that stood there.
      where: bool ``[B, M]`` false at slots that are not used.
    """

    ids: Array
    mask: Array
    positions: Array
    targets: Array
    where: Array


def word_starts(tokenizer: Tokenizer) -> np.ndarray:
    """Which tokens of the vocabulary begin a word: bool ``[vocab_size]``.

    By the vocabulary's own mark: ``##`` before what continues (WordPiece), or ``▁`` or
    ``Ġ`` before what begins (sentencepiece, byte-level BPE); without one all begin.
    """
    names = tokenizer.tokens(np.arange(tokenizer.vocab_size))
    for mark, begins in (("##", False), ("▁", True), ("Ġ", True)):
        marked = np.array([name.startswith(mark) for name in names])
        if marked.any():
            return marked if begins else ~marked
    return np.ones(len(names), bool)


def choose_masked(
    starts: np.ndarray, candidates: np.ndarray, rate: float, random: np.random.Generator
) -> np.ndarray:
    """Places to be predicted: ``max(1, round(rate * candidates))`` at most.

    Words are taken in random order while they fit; where none fits, the beginning of
    the first is taken.

    Args:
      starts: bool ``[T]``, true where a word begins; all true chooses tokens.
      candidates: bool ``[T]``, true at tokens that may be chosen.
      rate: part of the candidates.
      random: the source of chance.

    Returns:
      Rising places.

    Example::

      >>> yes = np.ones(8, bool)
      >>> choose_masked(yes, yes, 0.25, np.random.default_rng(0)).tolist()
      [2, 4]
    """
    (places,) = np.nonzero(candidates)
    if not len(places):
        return places
    budget = max(1, round(rate * len(places)))
    begins = starts[places]
    begins[0] = True
    begins[1:] |= np.diff(places) > 1  # a separator ends a word
    firsts = np.flatnonzero(begins)
    if len(firsts) == len(places):
        return np.sort(random.permutation(places)[:budget])
    ends = np.append(firsts[1:], len(places))
    chosen: list[int] = []
    order = random.permutation(len(firsts)).tolist()
    for word in order:
        first, end = int(firsts[word]), int(ends[word])
        if len(chosen) + end - first <= budget:
            chosen += range(first, end)
        if len(chosen) == budget:
            break
    if not chosen:
        first = int(firsts[order[0]])
        chosen += range(first, first + budget)
    return places[np.sort(np.array(chosen))]


class MaskBatches(RowBatches):
    """An endless stream of :class:`MaskBatch`; made by :func:`make_mask_batches`."""

    def __init__(
        self, chunks: Chunks, tokenizer: Tokenizer, config: MaskConfig, **how: Any
    ) -> None:
        names = ("[MASK]", "<mask>")
        found = [tokenizer.token_to_id(name) for name in names]
        known = [token for token in found if token is not None]
        if not known:
            raise InputError(
                tokenizer.name, "no token [MASK] or <mask>", "the tokenizer of a BERT",
                "for T5, train span corruption",
            )  # fmt: skip
        self._mask_id = known[0]
        frame = tokenizer.frame
        self._prefix = np.array(frame.prefix, np.int32)
        self._suffix = np.array(frame.suffix, np.int32)
        self._pad_id = tokenizer.pad_id
        everything = np.arange(tokenizer.vocab_size)
        self._ordinary = np.setdiff1d(everything, np.array(tokenizer.special_ids))
        self._starts = np.ones(tokenizer.vocab_size, bool)
        if config.whole_words:
            self._starts = word_starts(tokenizer)
        self._chunks, self._config = chunks, config
        sizes = chunks.lengths + len(self._suffix)
        room = config.input_length - len(self._prefix)
        if sizes.max() > room:
            raise InputError(
                "input_length", f"{config.input_length} for a text of "
                f"{int(sizes.max()) + len(self._prefix)} tokens, special ones included",
                "the whole of it", "open the chunks with a shorter chunk_length",
            )  # fmt: skip
        if config.packed:
            rows = pack_rows(chunks.lengths, (sizes,), (room,), config.seed)
        else:
            rows = list(np.arange(chunks.num_chunks)[:, None])
        made_of = f"masks {chunks.fingerprint} {config!r}"
        super().__init__(
            rows,
            batch_size=config.batch_size,
            seed=config.seed,
            fill=float(sizes.sum() / len(rows) + len(self._prefix))
            / config.input_length,
            fingerprint=hashlib.sha256(made_of.encode()).hexdigest(),
            **how,
        )

    def _make(self, rows: list[tuple[np.ndarray, np.random.Generator]]) -> MaskBatch:
        config = self._config
        wide, slots = (len(rows), config.input_length), (len(rows), config.slots)
        ids, mask = np.full(wide, self._pad_id, np.int32), np.zeros(wide, bool)
        positions, targets = (np.zeros(slots, np.int32) for _ in range(2))
        where = np.zeros(slots, bool)
        for i, (chunks, random) in enumerate(rows):
            if not len(chunks):
                continue
            pieces, ordinary = [self._prefix], [np.zeros(len(self._prefix), bool)]
            for chunk in chunks.tolist():
                tokens = self._chunks.tokens(chunk)
                pieces += [tokens, self._suffix]
                ordinary += [
                    np.ones(len(tokens), bool), np.zeros(len(self._suffix), bool),
                ]  # fmt: skip
            row = np.concatenate(pieces)
            at = choose_masked(
                self._starts[row], np.concatenate(ordinary), config.mask_rate, random
            )
            used = len(at)
            positions[i, :used], targets[i, :used] = at, row[at]
            where[i, :used] = True
            draw = random.random(used)
            other = self._ordinary[random.integers(len(self._ordinary), size=used)]
            hidden = np.where(draw < 0.9, other, row[at])
            row[at] = np.where(draw < 0.8, self._mask_id, hidden)
            ids[i, : len(row)], mask[i, : len(row)] = row, True
        return MaskBatch(ids, mask, positions, targets, where)


def make_mask_batches(
    chunks: Chunks,
    tokenizer: Tokenizer,
    config: MaskConfig,
    *,
    every_row: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> MaskBatches:
    """An endless, resumable stream of masked texts.

    Args:
      chunks: of :func:`jaxir.data.packing.open_chunks`, so long that with the special
        tokens one fits a row.
      tokenizer: of the model: a BERT's, with ``[MASK]``.
      config: sizes, rates and seed.
      every_row: an epoch leaves no row out, for validation (see ``RowBatches``).
      process_index: which of the processes this is.
      process_count: processes that share every batch, each with its rows.

    Raises:
      InputError: another tokenizer, chunks that do not fit a row, or fewer rows than a
        batch has.
    """
    return MaskBatches(
        chunks, tokenizer, config, every_row=every_row,
        process_index=process_index, process_count=process_count,
    )  # fmt: skip
