"""What the checkpoint tests share."""

import pytest
from tiny import WORDS

from jaxir.text import load_tokenizer


@pytest.fixture
def tokenizer(request, tmp_path):
    """Of the module's ``WORDS`` in their order, or of :data:`tiny.WORDS`."""
    words = getattr(request.module, "WORDS", WORDS)
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words.split()) + "\n")
    return load_tokenizer(folder)
