"""How a query and a document become one token sequence, for training and scoring alike.

Two kinds of model read both texts at once.  BERT's reads two segments::

    [CLS] query [SEP] document [SEP]

T5's reads one text by a template, ``"Query: {query} Document: {document}"`` in RankT5
(arXiv 2210.10634, section 4.1) and with ``" Relevant:"`` after it in monoT5 (arXiv
2003.06713).  Either way a pair is

    ``prefix  query part  middle  document part  suffix``

of which prefix, middle and suffix are the same in every pair.  So a text is tokenized
once, however many pairs it is in, and a pair that is too long loses the end of its
document and nothing else.

A template is split at white space only, which no piece of these tokenizers crosses:
the parts have the very tokens of the whole string.  (One character of Unicode is an
exception: T5's ``tokenizer.json`` drops U+0085, a control, from the end of a string,
and so from the end of a query; inside a string it is an unknown word.)
"""

import string
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxir.errors import InputError
from jaxir.text import Templates, Tokenizer

__all__ = ["Pair", "PairFormat", "pair_format"]

_PROBES = [("a", "b"), ("", ""), ("what is it", "1.5% of é"), ("a,b ", "a-b. C")]


class Pair(NamedTuple):
    """One token sequence of a query and a document.

    Attributes:
      ids: int32 ``[T]``, special tokens included.
      boundary: where segment 1 begins; the length for models of one segment.
      cut: tokens of the document part that found no room.
      query_cut: tokens of the query part that found no room.
    """

    ids: np.ndarray
    boundary: int
    cut: int
    query_cut: int


class PairFormat:
    """How two texts become one; made by :func:`pair_format`.

    Attributes:
      tokenizer: of the model.
      query_template: the query part as a text, ``{text}`` standing for the query.
      doc_template: the document part as a text.
      prefix: int32, tokens before the query part.
      middle: tokens between the parts.
      suffix: tokens after the document part.
      typed: whether the document part and the suffix are of segment 1.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        query_template: str,
        doc_template: str,
        prefix: Sequence[int] | np.ndarray,
        middle: Sequence[int] | np.ndarray,
        suffix: Sequence[int] | np.ndarray,
        typed: bool,
    ) -> None:
        self.tokenizer = tokenizer
        self.query_template, self.doc_template = query_template, doc_template
        self.prefix = np.array(prefix, np.int32)
        self.middle = np.array(middle, np.int32)
        self.suffix = np.array(suffix, np.int32)
        self.typed = typed

    @property
    def fixed(self) -> int:
        """Tokens of every pair that are neither of the query nor of the document."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    def room(self, max_length: int) -> int:
        """Tokens that a pair of ``max_length`` has for its two parts.

        Raises:
          InputError: it has none.
        """
        if max_length <= self.fixed:
            raise InputError(
                "max_length", f"{max_length} beside {self.fixed} tokens that stand in "
                "every pair", f"at least {self.fixed + 1}", "choose a longer one",
            )  # fmt: skip
        return max_length - self.fixed

    def encode_queries(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The query part of each text, whole; int32 arrays.

        Equal texts are tokenized once.
        """
        return self._encode(texts, self.query_template)

    def encode_docs(self, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
        """The document part of each text, of at most ``max_length`` tokens.

        Args:
          texts: the documents.
          max_length: of the pairs that they will be in.  One token more than a pair
            can hold is kept, so that :meth:`join` knows what was cut.
        """
        encoded = self._encode(texts, self.doc_template)
        # a copy: a view would keep the whole document in memory
        most = max_length + 1
        return [ids if len(ids) <= most else ids[:most].copy() for ids in encoded]

    def _encode(self, texts: Sequence[str], template: str) -> list[np.ndarray]:
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        filled = [template.format(text=text) for text in place]
        found = self.tokenizer.pieces(filled)
        return [found[place[text]] for text in texts]

    def join(self, query_ids: np.ndarray, doc_ids: np.ndarray, max_length: int) -> Pair:
        """One sequence of two parts.

        The document part is cut to what the query leaves.  Only a query part that alone
        exceeds the room is cut too, and the document part is then empty.

        Args:
          query_ids: of :meth:`encode_queries`.
          doc_ids: of :meth:`encode_docs`.
          max_length: most tokens of the pair.

        Raises:
          InputError: ``max_length`` leaves no room.
        """
        room = self.room(max_length)
        query = query_ids[:room]
        doc = doc_ids[: room - len(query)]
        parts = [self.prefix, query, self.middle, doc, self.suffix]
        ids = np.concatenate(parts)
        head = len(self.prefix) + len(query) + len(self.middle)
        return Pair(
            ids,
            head if self.typed else len(ids),
            len(doc_ids) - len(doc),
            len(query_ids) - len(query),
        )

    def encode(
        self, queries: Sequence[str], docs: Sequence[str], max_length: int
    ) -> list[Pair]:
        """The pairs of texts that stand at the same place.

        Raises:
          ValueError: more of the one than of the other.
        """
        heads = self.encode_queries(queries)
        bodies = self.encode_docs(docs, max_length)
        return [
            self.join(head, body, max_length)
            for head, body in zip(heads, bodies, strict=True)
        ]


def _literal(text: str) -> str:
    """A text as it stands in a template."""
    return text.replace("{", "{{").replace("}", "}}")


def _literals(template: str) -> tuple[str, str, str]:
    """What stands before the query, between the two, and after the document."""
    Templates(pair=template)  # complains about other places than the two
    literals = [""]
    names = []
    for literal, name, spec, conversion in string.Formatter().parse(template):
        literals[-1] += literal
        if name is not None:
            # a width or a !r would change the text: no place of ours
            names.append(name if not spec and not conversion else f"{name}:{spec}")
            literals.append("")
    if names != ["query", "document"]:
        raise InputError(
            "pair template", repr(template), "{query} once and then {document} once",
            "write it so; the end of what comes last is cut",
        )  # fmt: skip
    before, between, after = literals
    return before, between, after


def _white(text: str) -> list[int]:
    return [i for i, letter in enumerate(text) if letter.isspace()]


def pair_format(
    tokenizer: Tokenizer, *, template: str | None, eos: bool = True
) -> PairFormat:
    """The format of a model's pairs.

    Args:
      tokenizer: of the model.
      template: None for the tokenizer's own two segments (BERT, RoBERTa); for T5 a text
        with ``{query}`` and then ``{document}``, white space between them.
      eos: whether a template's text ends with the tokenizer's closing token, as Hugging
        Face's tokenizers do; T5X's reading of text leaves it out on request.

    Raises:
      InputError: a template without such places, a tokenizer whose pieces cross white
        space, or ``eos=False`` for segments, which the closing token is part of.

    Example::

      >>> import pathlib, tempfile
      >>> from jaxir.text import load_tokenizer
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> words = "[PAD] [UNK] [CLS] [SEP] what why rain"
      >>> _ = (folder / "vocab.txt").write_text("\\n".join(words.split()))
      >>> form = pair_format(load_tokenizer(folder), template=None)
      >>> (pair,) = form.encode(["what why"], ["rain rain rain"], 7)
      >>> pair.ids.tolist(), pair.boundary, pair.cut
      ([2, 4, 5, 3, 6, 6, 3], 4, 1)
    """
    if template is None:
        if not eos:
            raise InputError(
                "eos", "False for texts in segments", "True",
                "give a template, or leave it on",
            )  # fmt: skip
        pair = tokenizer.pair_frame
        return PairFormat(
            tokenizer, query_template="{text}", doc_template="{text}",
            prefix=pair.prefix, middle=pair.middle, suffix=pair.suffix,
            typed=pair.typed,
        )  # fmt: skip
    before, between, after = _literals(template)
    gaps, ends = _white(between), _white(after)
    if not gaps:
        raise InputError(
            "pair template", repr(template), "white space between {query} and "
            "{document}", "set them apart",
        )  # fmt: skip
    frame = tokenizer.frame
    # the white space begins what follows it: some tokenizers mark words by it
    first, last = gaps[0], gaps[-1]
    end = ends[0] if ends else len(after)
    middle, tail = tokenizer.pieces([between[first:last], after[end:]])
    form = PairFormat(
        tokenizer,
        query_template=_literal(before) + "{text}" + _literal(between[:first]),
        doc_template=_literal(between[last:]) + "{text}" + _literal(after[:end]),
        prefix=frame.prefix,
        middle=middle,
        suffix=[*tail.tolist(), *(frame.suffix if eos else [])],
        typed=False,
    )
    _probe(form, template, frame.suffix if eos else [])
    return form


def _probe(form: PairFormat, template: str, closing: list[int]) -> None:
    """Raises where the parts have other tokens than the whole."""
    texts = [template.format(query=q, document=d) for q, d in _PROBES]
    wholes = form.tokenizer.pieces(texts)
    queries, docs = zip(*_PROBES, strict=True)
    for whole, pair in zip(wholes, form.encode(queries, docs, 2**20), strict=True):
        expected = [*form.prefix.tolist(), *whole.tolist(), *closing]
        if pair.ids.tolist() != expected:
            raise InputError(
                form.tokenizer.name, "a tokenizer whose pieces cross white space",
                "T5's, or another that splits texts there", "use template=None",
            )  # fmt: skip
