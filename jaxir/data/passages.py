"""Long texts as passages: cut at Markdown's headings, at paragraphs, at sentences.

An encoder reads the first few hundred tokens of a document and nothing of the rest, so
a file of several pages is better searched in pieces.  A passage ends where its author
ended something: a section, else a paragraph, and only within a paragraph that is too
long by itself at a sentence, and at last at a word.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from jaxir.errors import InputError

__all__ = ["Section", "cut_passages", "markdown_sections"]

_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)[ \t]*#*[ \t]*")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+")


class Section(NamedTuple):
    """A heading with the text below it, up to the next heading.

    Attributes:
      heading: without its marks; empty above the first heading.
      text: stripped, possibly empty.
    """

    heading: str
    text: str


def _without_front_matter(lines: list[str]) -> list[str]:
    """Drops the ``---`` block that site generators put at the top of a file."""
    if lines and lines[0].strip() == "---":
        for number, line in enumerate(lines[1:], 2):
            if line.strip() in ("---", "..."):
                return lines[number:]
    return lines


def markdown_sections(text: str) -> list[Section]:
    """The sections of a Markdown text; a ``#`` within a fenced block is no heading.

    Example::

      >>> text = "# Rivers\\n\\nThey flow.\\n\\n## Deltas\\n\\n```\\n# no heading\\n```"
      >>> for section in markdown_sections(text):
      ...     print(section)
      Section(heading='Rivers', text='They flow.')
      Section(heading='Deltas', text='```\\n# no heading\\n```')
    """
    found: list[tuple[str, list[str]]] = [("", [])]
    fence = ""
    for line in _without_front_matter(text.splitlines()):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and line.strip() == mark[1]:
            fence = ""
        heading = None if fence or mark else _HEADING.fullmatch(line)
        if heading:
            found.append((heading[1], []))
        else:
            found[-1][1].append(line)
    sections = [Section(name, "\n".join(lines).strip()) for name, lines in found]
    return [section for section in sections if section.heading or section.text]


def _pieces(paragraph: str, words: int) -> Iterator[str]:
    """A paragraph, or where it is too long its sentences, or runs of their words."""
    if len(paragraph.split()) <= words:
        yield paragraph
        return
    for sentence in _SENTENCE_END.split(paragraph):
        parts = sentence.split()
        if len(parts) <= words:
            yield sentence
        else:
            for start in range(0, len(parts), words):
                yield " ".join(parts[start : start + words])


def cut_passages(text: str, words: int) -> list[str]:
    """Cuts a text into passages of at most ``words`` words, in order, none lost.

    Args:
      text: paragraphs separated by blank lines.
      words: the most words of a passage, at least 1; about 180 fill the 256 tokens of
        MiniLM in English.

    Raises:
      InputError: ``words`` is below 1.

    Example::

      >>> cut_passages("One two.\\n\\nThree four five. Six.", 4)
      ['One two.', 'Three four five. Six.']
      >>> cut_passages("One two.\\n\\nThree four five. Six.", 3)
      ['One two.', 'Three four five.', 'Six.']
    """
    if words < 1:
        raise InputError("words", str(words), "at least 1")
    passages: list[str] = []
    current, count = "", 0
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        gap = "\n\n"
        for piece in _pieces(paragraph, words):
            length = len(piece.split())
            if count + length > words and current:
                passages.append(current)
                current, count = "", 0
            current = f"{current}{gap}{piece}" if current else piece
            count, gap = count + length, " "
    return [*passages, current] if current else passages
