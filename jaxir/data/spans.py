"""T5's span corruption: some spans of a text are cut out, and are what is predicted.

    Thank you for inviting me to your party last week
    inputs   Thank you <extra_id_0> me to your party <extra_id_1> week </s>
    targets  <extra_id_0> for inviting <extra_id_1> last </s>

Raffel et al. 2020 (arXiv 1910.10683), section 3.1.4.  The lengths follow T5's own
``random_spans_noise_mask``: how many tokens are cut out, and in how many spans, follows
from the length of the text alone; where, is drawn.  A text begins with a kept span and
ends with one that is cut out.
"""

import dataclasses
import hashlib
from typing import Any, NamedTuple

import numpy as np

from jaxir.data.packing import Chunks, RowBatches, pack_rows
from jaxir.errors import InputError
from jaxir.text import Tokenizer

__all__ = [
    "SpanBatch",
    "SpanBatches",
    "SpanConfig",
    "SpanLengths",
    "chunk_length_of",
    "corrupt_spans",
    "make_span_batches",
    "noise_mask",
    "sentinel_ids",
    "span_lengths",
]

Array = Any  # numpy on the host, jax.Array on a device


@dataclasses.dataclass(frozen=True)
class SpanConfig:
    """How texts are corrupted and put into batches; the defaults are T5's.

    Attributes:
      batch_size: rows of a global batch, over all processes.
      input_length: tokens of a row of inputs.
      target_length: tokens of a row of targets; None leaves room for an eighth more
        than a row that is one text needs, since shorter texts round up.
      noise_density: part of the tokens that are cut out.
      mean_span_length: tokens of a span that is cut out, on average.
      min_tokens: documents and ends of documents of fewer tokens are left out.
      seed: of the order and the masks.

    Raises:
      InputError: a number out of range.
    """

    batch_size: int = 128
    input_length: int = 512
    target_length: int | None = None
    noise_density: float = 0.15
    mean_span_length: float = 3.0
    min_tokens: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "min_tokens"):
            low = 2 if name == "min_tokens" else 1
            if getattr(self, name) < low:
                raise InputError(name, str(getattr(self, name)), f"at least {low}")
        if not 0 < self.noise_density < 1:
            raise InputError("noise_density", str(self.noise_density), "within 0 and 1")
        if self.mean_span_length < 1:
            raise InputError(
                "mean_span_length", str(self.mean_span_length), "1 or more"
            )
        if self.input_length < 8:
            raise InputError("input_length", str(self.input_length), "at least 8")
        if self.seed < 0:
            raise InputError("seed", str(self.seed), "at least 0")
        needed = int(span_lengths(chunk_length_of(self), self).targets)
        if self.target_length is not None and self.target_length < needed:
            raise InputError(
                "target_length", str(self.target_length),
                f"at least {needed} for an input_length of {self.input_length}",
            )  # fmt: skip

    @property
    def row_targets(self) -> int:
        """Tokens of a row of targets, a multiple of 8 where it was left open."""
        if self.target_length is not None:
            return self.target_length
        needed = int(span_lengths(chunk_length_of(self), self).targets)
        return -(-needed * 9 // 64) * 8


class SpanLengths(NamedTuple):
    """What becomes of texts of given lengths.

    Attributes:
      noise: tokens that are cut out.
      spans: spans that they come in.
      inputs: tokens of the inputs, sentinels and EOS included.
      targets: tokens of the targets, sentinels and EOS included.
    """

    noise: np.ndarray
    spans: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray


def span_lengths(lengths: int | np.ndarray, config: SpanConfig) -> SpanLengths:
    """Sizes of the inputs and targets of texts, which do not depend on the draw.

    ``noise = round(density * length)``, at least 1 and at most ``length - 1``;
    ``spans = round(noise / mean span length)``, at least 1 and so many that every
    span, kept or cut out, has a token.

    Args:
      lengths: tokens of the texts, at least 2, without special tokens.
      config: density and span length.

    Example::

      >>> [int(size) for size in span_lengths(568, SpanConfig())]
      [85, 28, 512, 114]
    """
    lengths = np.asarray(lengths)
    noise = np.clip(np.round(lengths * config.noise_density), 1, lengths - 1)
    noise = noise.astype(np.int64)
    spans = np.maximum(np.round(noise / config.mean_span_length), 1).astype(np.int64)
    spans = np.minimum(spans, np.minimum(noise, lengths - noise))
    return SpanLengths(noise, spans, lengths - noise + spans + 1, noise + spans + 1)


def chunk_length_of(config: SpanConfig) -> int:
    """The longest text whose inputs fit a row: T5's ``random_spans_helper``.

    Example::

      >>> chunk_length_of(SpanConfig(input_length=512))
      568
    """
    lengths = np.arange(2, 16 * config.input_length)
    fits = span_lengths(lengths, config).inputs <= config.input_length
    return int(lengths[fits].max())


def noise_mask(
    length: int, config: SpanConfig, random: np.random.Generator
) -> np.ndarray:
    """Which tokens of a text are cut out.

    Kept and cut-out spans alternate, a kept one first.  Among all ways to cut the
    tokens of either kind into the given number of spans each is equally likely.  A
    text so short that it has one span (up to 30 tokens) always ends with it, as in T5.

    Args:
      length: tokens of the text, at least 2.
      config: density and span length.
      random: the source of chance.

    Returns:
      bool ``[length]``, true at tokens that are cut out.

    Example::

      >>> config = SpanConfig(noise_density=0.5, mean_span_length=2.0)
      >>> noise_mask(8, config, np.random.default_rng(0)).astype(int).tolist()
      [0, 0, 0, 1, 1, 1, 0, 1]
    """
    noise, spans, _, _ = (int(size) for size in span_lengths(length, config))
    cut = _random_lengths(noise, spans, random)
    kept = _random_lengths(length - noise, spans, random)
    alternating = np.stack([kept, cut], axis=1).reshape(-1)
    return np.repeat(np.arange(2 * spans) % 2 == 1, alternating)


def _random_lengths(total: int, parts: int, random: np.random.Generator) -> np.ndarray:
    """``total`` as a sum of ``parts`` numbers from 1, each such sum equally likely."""
    cuts = np.sort(random.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(cuts, prepend=0, append=total)


def corrupt_spans(
    ids: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, eos_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of a text.

    Args:
      ids: ``[length]`` token ids.
      mask: bool ``[length]``, true at tokens that are cut out; the first is kept.
      sentinels: ids of ``<extra_id_0>``, ``<extra_id_1>`` and so on, one a span.
      eos_id: ends both.

    Example::

      >>> inputs, targets = corrupt_spans(
      ...     np.array([5, 6, 7, 8]), np.array([False, True, True, False]),
      ...     np.array([99, 98]), eos_id=1)
      >>> inputs.tolist(), targets.tolist()
      ([5, 99, 8, 1], [99, 6, 7, 1])
    """
    begins = mask & ~np.roll(mask, 1)
    begins[0] = mask[0]
    (at,) = np.nonzero(begins)
    names = sentinels[: len(at)]
    marked = ids.copy()
    marked[at] = names
    inputs = marked[~mask | begins]
    # a sentinel stands before the first token of its span
    where = np.searchsorted(np.flatnonzero(mask), at)
    targets = np.insert(ids[mask], where, names)
    return np.append(inputs, eos_id), np.append(targets, eos_id)


def sentinel_ids(tokenizer: Tokenizer) -> np.ndarray:
    """Ids of ``<extra_id_0>``, ``<extra_id_1>`` and so on, as many as there are.

    Raises:
      InputError: the tokenizer has none.
    """
    found: list[int] = []
    while (one := tokenizer.token_to_id(f"<extra_id_{len(found)}>")) is not None:
        found.append(one)
    if not found:
        raise InputError(
            tokenizer.name, "no token <extra_id_0>", "the tokenizer of a T5",
            "for BERT, train masked language modelling",
        )  # fmt: skip
    return np.array(found, np.int32)


class SpanBatch(NamedTuple):
    """Packed rows of corrupted texts; int32 arrays.

    Attributes:
      inputs: ``[B, T]`` what the encoder reads, 0 at padding.
      input_segments: ``[B, T]`` number of the text in its row, from 1; 0 at padding.
      targets: ``[B, S]`` what the decoder is to say.
      target_segments: ``[B, S]`` number of the text, as above.
    """

    inputs: Array
    input_segments: Array
    targets: Array
    target_segments: Array


class SpanBatches(RowBatches):
    """An endless stream of :class:`SpanBatch`; made by :func:`make_span_batches`."""

    def __init__(
        self, chunks: Chunks, tokenizer: Tokenizer, config: SpanConfig, **how: Any
    ) -> None:
        if chunks.lengths.min() < 2:
            found = "a text of one token"
            raise InputError("min_tokens", found, "2: one to keep, one to cut out")
        sizes = span_lengths(chunks.lengths, config)
        self._sentinels = sentinel_ids(tokenizer)
        if sizes.spans.max() > len(self._sentinels):
            raise InputError(
                "input_length", f"{int(sizes.spans.max())} spans in a text",
                f"at most the {len(self._sentinels)} sentinels of the tokenizer",
                "choose a smaller input_length or longer spans",
            )  # fmt: skip
        eos_id = tokenizer.token_to_id("</s>")
        if eos_id is None:
            raise InputError(tokenizer.name, "no token </s>", "the tokenizer of a T5")
        self._eos_id = eos_id
        self._chunks, self._config = chunks, config
        limits = (config.input_length, config.row_targets)
        rows = pack_rows(
            chunks.lengths, (sizes.inputs, sizes.targets), limits, config.seed
        )
        made_of = f"spans {chunks.fingerprint} {config!r}"
        super().__init__(
            rows,
            batch_size=config.batch_size,
            seed=config.seed,
            fill=float(sizes.inputs.sum()) / (len(rows) * config.input_length),
            fingerprint=hashlib.sha256(made_of.encode()).hexdigest(),
            **how,
        )

    def _make(self, rows: list[tuple[np.ndarray, np.random.Generator]]) -> SpanBatch:
        config = self._config
        shapes = [(len(rows), config.input_length), (len(rows), config.row_targets)]
        inputs, input_segments = (np.zeros(shapes[0], np.int32) for _ in range(2))
        targets, target_segments = (np.zeros(shapes[1], np.int32) for _ in range(2))
        for i, (chunks, random) in enumerate(rows):
            at_input = at_target = 0
            for segment, chunk in enumerate(chunks.tolist(), start=1):
                ids = self._chunks.tokens(chunk)
                mask = noise_mask(len(ids), config, random)
                source, goal = corrupt_spans(ids, mask, self._sentinels, self._eos_id)
                here = slice(at_input, at_input + len(source))
                inputs[i, here], input_segments[i, here] = source, segment
                there = slice(at_target, at_target + len(goal))
                targets[i, there], target_segments[i, there] = goal, segment
                at_input, at_target = here.stop, there.stop
        return SpanBatch(inputs, input_segments, targets, target_segments)


def make_span_batches(
    chunks: Chunks,
    tokenizer: Tokenizer,
    config: SpanConfig,
    *,
    every_row: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> SpanBatches:
    """An endless, resumable stream of packed, corrupted texts.

    Args:
      chunks: of :func:`jaxir.data.packing.open_chunks` at :func:`chunk_length_of`.
      tokenizer: of the model: a T5's, with sentinels.
      config: sizes and seed.
      every_row: an epoch leaves no row out, for validation (see ``RowBatches``).
      process_index: which of the processes this is.
      process_count: processes that share every batch, each with its rows.

    Raises:
      InputError: another tokenizer, more spans than sentinels, or fewer rows than a
        batch has.
    """
    return SpanBatches(
        chunks, tokenizer, config, every_row=every_row,
        process_index=process_index, process_count=process_count,
    )  # fmt: skip
