"""The one exception for users: one line, whatever stands in its parts."""

import inspect

import pytest

from jaxir.data.collection import open_collection
from jaxir.errors import InputError
from jaxir.index import build_index
from jaxir.search import Searcher, open_index


def test_one_line_whatever_its_parts_hold():
    error = InputError("a\nb", "c\r\nd", "e\u2028f", "g\x0bh")
    assert str(error) == "a b: c d; expected e f; g h"


def test_empty_parts_are_left_out():
    assert str(InputError("run:3", "found", remedy="mend it")) == (
        "run:3: found; mend it"
    )


def test_one_text_is_not_searched_letter_by_letter(tiny_collection, tmp_path):
    build_index("bm25", open_collection(tiny_collection), tmp_path / "bm25")
    searcher = open_index(tmp_path / "bm25")
    with pytest.raises(InputError, match="texts: one text; expected a list of texts"):
        searcher.search_texts("rivers carry clay", 3)
    for queries in ("rivers carry clay", ["rivers carry clay"]):
        with pytest.raises(InputError, match=r"queries: a .*; expected texts by query"):
            inspect.unwrap(Searcher.search)(searcher, queries)  # no executed types
