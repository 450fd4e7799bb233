"""``jaxir search --query``: one question, its documents shown on the terminal."""

import argparse
import shutil
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxir.errors import InputError

if TYPE_CHECKING:
    from jaxir.data.store import DocStore

__all__ = ["QUERY_ID", "answers", "asked", "format_answers"]

QUERY_ID = "query"
"""The id of a query that was typed, where results stand under ids."""

_WIDTH = 100
"""No line is longer, however wide the terminal."""


def asked(args: argparse.Namespace) -> bool:
    """Whether one typed query is searched for, rather than a file of them.

    Raises:
      InputError: both or neither are given, or what only the other would read.
    """
    if args.query is None:
        for name in ("queries", "output"):
            if getattr(args, name) is None:
                raise InputError(
                    f"--{name}", "not given", "--queries and --output, or --query TEXT"
                )
        if args.texts is not None:
            raise InputError("--texts", "given without --query", "--query TEXT")
        return False
    for name in ("queries", "output", "tag", "engine"):
        if getattr(args, name) is not None:
            raise InputError(
                f"--{name}", "given with --query", "one of them",
                "write a run with --queries and --output",
            )  # fmt: skip
    if not args.query.strip():
        raise InputError("--query", "no words", "a question")
    if any("\ud800" <= letter <= "\udfff" for letter in args.query):
        # What Python makes of other bytes; no tokenizer reads it.
        raise InputError("--query", f"not UTF-8: {args.query!a:.60}", "UTF-8 text")
    return True


def answers(
    found: Mapping[str, float], docs: "DocStore | None"
) -> list[dict[str, Any]]:
    """Results as the service gives them: rank, doc_id, score, title and text.

    Args:
      found: scores by document, best first.
      docs: the documents, or None where only ids are known.

    Raises:
      InputError: the index holds a document that the collection does not.
    """
    hits: list[dict[str, Any]] = [
        {"rank": rank, "doc_id": doc_id, "score": score}
        for rank, (doc_id, score) in enumerate(found.items(), 1)
    ]
    if docs is None:
        return hits
    for hit, row in zip(hits, docs.rows(found).tolist(), strict=True):
        if row < 0:
            raise InputError(
                "--texts", f"no document {hit['doc_id']!r}",
                "the collection that was indexed", "index it again if it changed",
            )  # fmt: skip
        hit |= {"title": docs[row].title, "text": docs[row].text}
    return hits


def format_answers(hits: list[dict[str, Any]]) -> str:
    """The results for a person: a line each, and the first words of their texts.

    Example::

      >>> hit = {"rank": 1, "doc_id": "d7", "score": 2.5}
      >>> print(format_answers([hit | {"title": "Clay", "text": "Soft earth."}]))
       1  2.5000  d7  Clay
                  Soft earth.
    """
    width = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 0)).columns)
    lines = []
    for hit in hits:
        head = f"{hit['rank']:2}  {hit['score']:.4f}  "
        title = f"  {hit['title']}" if hit.get("title") else ""
        lines.append(f"{head}{hit['doc_id']}{title}"[:width].rstrip())
        gap = " " * len(head)
        lines += textwrap.wrap(
            hit.get("text", "")[: 3 * width],
            max(40, width),
            initial_indent=gap,
            subsequent_indent=gap,
            max_lines=2,
            placeholder=" …",
        )
    return "\n".join(lines)
