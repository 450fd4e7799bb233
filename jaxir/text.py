"""Tokenizers, the templates around texts, and the fixed lengths they are padded to.

``tokenizer.json`` is read by the ``tokenizers`` library directly, a bare ``vocab.txt``
as BERT's WordPiece, a bare ``spiece.model`` by ``sentencepiece``; only what is left
goes through ``transformers``, which takes seconds to import.
"""

import bisect
import hashlib
import itertools
import os
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from jaxir import text_backends
from jaxir.errors import InputError
from jaxir.files import atomic_file
from jaxir.text_backends import (
    Backend,
    Frame,
    bert_wordpiece,
    from_json,
    from_sentencepiece,
    read_settings,
    through_transformers,
)
from jaxir.types import TokenBatch

__all__ = [
    "Templates",
    "Tokenizer",
    "bucket_lengths",
    "bucket_of",
    "check_like",
    "load_tokenizer",
    "lower_cased",
    "pad_batch",
]

_CHUNK = 1000  # texts in Rust at a time: enough for its threads, little memory


class Tokenizer:
    """Text to token ids; made by :func:`load_tokenizer`.

    Attributes:
      name: where it was loaded from.
      pad_id: id of padding.
      vocab_size: one more than the largest id.
      special_ids: ids of special tokens, rising.
      fingerprint: sha256 of its definition.
    """

    def __init__(self, name: str, backend: Backend) -> None:
        self.name, self._backend = name, backend
        self.pad_id, self.vocab_size = backend.pad_id, backend.vocab_size
        self.special_ids = backend.special_ids
        content = next(iter(backend.files.values()))
        self.fingerprint = hashlib.sha256(content).hexdigest()

    def __repr__(self) -> str:
        return f"Tokenizer({self.name!r}, vocab_size={self.vocab_size})"

    @property
    def frame(self) -> Frame:
        """The special tokens around a text that stands alone."""
        return self._backend.single

    @property
    def pair_frame(self) -> Frame:
        """The special tokens around and between two texts."""
        return self._backend.pair

    def pieces(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids without special tokens, whole; int32 arrays, one a text."""
        found: list[np.ndarray] = []
        for start in range(0, len(texts), _CHUNK):
            chunk = self._backend.pieces(list(texts[start : start + _CHUNK]))
            found += [np.array(ids, np.int32) for ids in chunk]
        return found

    def encode(self, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
        """Token ids with special tokens, cut to ``max_length``.

        Two texts as one are ``jaxir.pairs``' matter.

        Args:
          texts: the texts.
          max_length: most tokens of a result, special tokens included.

        Returns:
          int32 arrays, one a text.

        Raises:
          InputError: ``max_length`` leaves no room.
        """
        prefix, _, suffix, _ = self._backend.single
        room = max_length - len(prefix) - len(suffix)
        if room < 1:
            special = len(prefix) + len(suffix)
            raise InputError(
                self.name, f"max_length {max_length} leaves no room beside {special} "
                "special tokens", f"{special + 1} or more",
            )  # fmt: skip
        encoded = []
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            for pieces in self._backend.pieces(chunk):
                ids = [*prefix, *pieces[:room], *suffix]
                encoded.append(np.array(ids, np.int32))
        return encoded

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of token ids, special tokens left out."""
        return self._backend.decode([int(i) for i in ids])

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The vocabulary's entry of each id, empty for ids it does not name."""
        return [self._backend.id_to_token(int(i)) or "" for i in ids]

    def token_to_id(self, token: str) -> int | None:
        """Id of a vocabulary entry, None if there is none."""
        return self._backend.token_to_id(token)

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the files from which :func:`load_tokenizer` makes the same again."""
        for name, content in self._backend.files.items():
            with atomic_file(Path(directory) / name, "wb") as out:
                out.write(content)


_FILES = {
    "tokenizer.json": from_json,
    "vocab.txt": bert_wordpiece,
    "spiece.model": from_sentencepiece,
}


def load_tokenizer(path_or_id: str | os.PathLike) -> Tokenizer:
    """Loads a tokenizer.

    Args:
      path_or_id: a folder with ``tokenizer.json``, ``vocab.txt`` (BERT) or
        ``spiece.model`` (T5), looked for in this order; one of these files; another
        folder that transformers can read; or a Hugging Face id, with or without
        ``hf:``.  ``tokenizer_config.json`` beside the file is respected.

    Raises:
      InputError: there is none.
    """
    name = os.fspath(path_or_id)
    path = Path(name).expanduser()
    if not name.startswith("hf:"):
        if path.is_file() and path.name in _FILES:
            return Tokenizer(name, _FILES[path.name](path, read_settings(path.parent)))
        for folder in (path, path / "tokenizer", path / "0_Transformer"):
            for file, load in _FILES.items():
                if (folder / file).is_file():
                    return Tokenizer(name, load(folder / file, read_settings(folder)))
        if not path.exists() and name[:1] in (".", "/", "~"):
            raise InputError(name, "no such folder or file", remedy="check the path")
    return Tokenizer(name, through_transformers(name.removeprefix("hf:")))


def _template_fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def lower_cased(tokenizer: Tokenizer) -> Tokenizer:
    """RoBERTa's tokenizer as ``transformers`` 2 made it with ``do_lower_case=True``.

    Texts are put into lower case, character by character, and lose the space at their
    end; before them stands one space, so that a first word is the same token as any
    other.  Models that learned from such tokens, as those of JPQ's and STAR's authors,
    are lost with those of today's ``RobertaTokenizer``, which heeds neither.  Both
    become part of ``tokenizer.json``: what is saved reads texts so in any library.

    Two corners differ from 2019's code: it puts no space before a text that begins with
    a tab or a line's end, and none after a special token that a text spells out.

    Args:
      tokenizer: a byte-level one; one that is lower-cased already stays as it is.

    Raises:
      InputError: another sort of tokenizer.
    """
    backend = text_backends.lower_cased(tokenizer._backend, tokenizer.name)
    return Tokenizer(tokenizer.name, backend)


def check_like(tokenizer: Tokenizer, own: Tokenizer) -> None:
    """Checks that a tokenizer could be the one that a model was trained with.

    Its words may be others all the same: nothing tells that.

    Args:
      tokenizer: what shall read texts.
      own: the model's.

    Raises:
      InputError: another number of tokens, other special tokens, or another case.
    """
    for found, expected in zip(_traits(tokenizer), _traits(own), strict=True):
        if found != expected:
            raise InputError(
                tokenizer.name, f"a tokenizer {found}", f"one {expected}, the model's",
                "take the tokenizer that the model was trained with",
            )  # fmt: skip


def _traits(tokenizer: Tokenizer) -> tuple[str, ...]:
    large, small = (ids.tolist() for ids in tokenizer.pieces(["A", "a"]))
    frame = tokenizer.frame
    return (
        f"of {tokenizer.vocab_size:,} tokens",
        f"with {frame.prefix} before and {frame.suffix} behind a text, "
        f"{tokenizer.pad_id} as padding",
        "that takes A for a" if large == small else "that tells A from a",
    )


@dataclass(frozen=True)
class Templates:
    """What stands around texts before they are tokenized.

    Attributes:
      query: around a query, as ``"query: {text}"``.
      doc: around a document.
      pair: a query and a document as one text, as for T5 cross-encoders.

    Raises:
      InputError: a template without its places, or with others.

    Example::

      >>> Templates(query="query: {text}").query.format(text="why")
      'query: why'
    """

    query: str = "{text}"
    doc: str = "{text}"
    pair: str = "Query: {query} Document: {document}"

    def __post_init__(self) -> None:
        for field in fields(self):
            template = getattr(self, field.name)
            wanted = {"query", "document"} if field.name == "pair" else {"text"}
            try:
                found = _template_fields(template)
            except ValueError:
                found = set()
            if found != wanted:
                places = " and ".join(f"{{{name}}}" for name in sorted(wanted))
                raise InputError(
                    f"{field.name} template", repr(template), places,
                    "write {{ and }} for braces",
                )  # fmt: skip


def _lengths() -> Iterator[int]:
    """16 to 128 by 16, to 256 by 32, to 512 by 64, and so on."""
    length, step = 16, 16
    while True:
        yield length
        length += step
        if length > 8 * step:
            length, step = length + step, 2 * step


def bucket_lengths(max_length: int) -> tuple[int, ...]:
    """The fixed lengths to which texts of up to ``max_length`` tokens are padded.

    Multiples of 16 up to 128, of 32 up to 256, of 64 up to 512, and so on; the last is
    ``max_length`` itself.  So a text of more than 64 tokens is padded by less than a
    quarter of its length, and a model is compiled for a dozen shapes.  Padding adds
    1 to 4 % to the tokens of SciFact, NFCorpus and medquad at 256 tokens (MiniLM's
    vocabulary), 10 % to CoSQA's and 17 % to Vaswani's short abstracts.

    Raises:
      ValueError: ``max_length`` is not positive.

    Example::

      >>> bucket_lengths(256)
      (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256)
      >>> bucket_lengths(40)
      (16, 32, 40)
    """
    if max_length < 1:
        raise ValueError(f"max_length {max_length} is not positive")
    shorter = itertools.takewhile(lambda length: length < max_length, _lengths())
    return (*shorter, max_length)


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The smallest of the rising ``buckets`` that holds ``length`` tokens.

    Raises:
      ValueError: none does.

    Example::

      >>> bucket_of(33, (16, 32, 48))
      48
    """
    place = bisect.bisect_left(buckets, length)
    if place == len(buckets):
        raise ValueError(f"{length} tokens exceed the longest bucket, {buckets[-1]}")
    return buckets[place]


def pad_batch(
    ids: Sequence[np.ndarray],
    *,
    length: int,
    pad_id: int,
    rows: int | None = None,
    type_boundaries: Sequence[int] | np.ndarray | None = None,
) -> TokenBatch:
    """Texts of several lengths as one rectangle, padded on the right.

    Args:
      ids: token ids of each text.
      length: width of the result.
      pad_id: what stands at padding.
      rows: height of the result, at least ``len(ids)``; the rows beyond are padding
        throughout, their mask false.
      type_boundaries: where segment 1 of each text begins; no ``type_ids`` if None.

    Raises:
      ValueError: a text longer than ``length``, or more texts than ``rows``.

    Example::

      >>> batch = pad_batch([np.array([5, 6]), np.array([7])], length=3, pad_id=0)
      >>> batch.ids.tolist(), batch.mask.sum(1).tolist()
      ([[5, 6, 0], [7, 0, 0]], [2, 1])
    """
    count = len(ids)
    rows = count if rows is None else rows
    lengths = np.zeros(rows, np.int64)
    if count > rows:
        raise ValueError(f"{count} texts for {rows} rows")
    lengths[:count] = np.fromiter(map(len, ids), np.int64, count)
    if count and lengths.max() > length:
        raise ValueError(f"a text of {lengths.max()} tokens for length {length}")
    positions = np.arange(length)[None, :]
    mask = positions < lengths[:, None]
    padded = np.full((rows, length), pad_id, np.int32)
    if count:
        padded[mask] = np.concatenate(ids)  # both run through the rows in order
    if type_boundaries is None:
        return TokenBatch(padded, mask, None)
    boundaries = np.full(rows, length, np.int64)
    boundaries[:count] = np.asarray(type_boundaries)
    types = mask & (positions >= boundaries[:, None])
    return TokenBatch(padded, mask, types.astype(np.int32))
