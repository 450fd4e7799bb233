"""Texts cut into passages: nothing is lost, nothing is too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxir.data.passages import cut_passages, markdown_sections
from jaxir.errors import InputError

texts = st.text(st.sampled_from("ab .!\n"), max_size=80)


@given(texts, st.integers(1, 8))
def test_every_word_is_in_one_passage_and_none_is_too_long(text, words):
    passages = cut_passages(text, words)
    assert " ".join(passages).split() == text.split()
    assert all(0 < len(passage.split()) <= words for passage in passages)


@given(texts)
def test_a_text_that_fits_is_one_passage(text):
    count = len(text.split())
    assert len(cut_passages(text, max(1, count))) == (count > 0)


def test_cut_at_paragraphs_then_at_sentences_then_at_words():
    text = "One two three.\n\nFour five. Six seven eight nine ten eleven."
    assert cut_passages(text, 100) == [text]
    assert cut_passages(text, 6) == [
        "One two three.\n\nFour five.", "Six seven eight nine ten eleven.",
    ]  # fmt: skip
    assert cut_passages(text, 5) == [
        "One two three.\n\nFour five.", "Six seven eight nine ten", "eleven.",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"words: 0; expected at least 1"):
        cut_passages(text, 0)


MARKDOWN = """---
title: not part of the text
---
Before any heading.

# Rivers #

They flow.
#hashtag

~~~sh
# a comment
```
# another
~~~

   ### Deltas

Last.
"""


def test_sections():
    sections = markdown_sections(MARKDOWN)
    assert [heading for heading, _ in sections] == ["", "Rivers", "Deltas"]
    assert sections[0].text == "Before any heading."
    assert sections[1].text.startswith("They flow.\n#hashtag")
    assert sections[1].text.endswith("# another\n~~~")
    assert sections[2].text == "Last."
    assert markdown_sections("") == []
    assert markdown_sections("---\nnever closed")[0].text == "---\nnever closed"
    assert markdown_sections("# Alone")[0] == ("Alone", "")
