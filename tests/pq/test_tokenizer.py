"""The tokens that JPQ's towers learned from: 2019's lower-casing RobertaTokenizer."""

import itertools
import json
import re

import pytest
from tiny_roberta import TEXTS, byte_level_tokenizer

from jaxir.errors import InputError
from jaxir.text import check_like, load_tokenizer, lower_cased

SAMPLES = [
    *TEXTS,
    "WATER from Rivers",
    " water  already after a space",
    "Bakers' dough ",
    "two  spaces   and three, then the end   ",
    "Ärzte FÜR ÖL: Σίσυφος ΟΔΟΣ",
    "İstanbul 230 ½ degrees",
    "日本語 and ｆｕｌｌ　width",
    "a\nline\tand a tab",
    "url<sep>Title<sep>Body",
    "A",
    "I'LL don't WE'VE",
]


@pytest.fixture
def folder(tmp_path):
    return byte_level_tokenizer(tmp_path / "roberta")


@pytest.fixture
def theirs(folder):
    return lower_cased(load_tokenizer(folder))


class OldTokenizer:
    """``transformers`` 2's steps, written down in Python from its documentation.

    A space before the text, lower case character by character, no space at the end;
    GPT-2's split into words; bytes; merges by rank.
    """

    def __init__(self, folder) -> None:
        self.ids = json.loads((folder / "vocab.json").read_text())
        lines = (folder / "merges.txt").read_text().splitlines()[1:]
        self.rank = {tuple(line.split(" ")): i for i, line in enumerate(lines)}
        regex = pytest.importorskip("regex")
        self.words = regex.compile(
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+"
            r"| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        )
        # GPT-2's letters for bytes: printable ones stand for themselves.
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in shown]
        self.letter = {byte: chr(byte) for byte in shown}
        self.letter |= {byte: chr(256 + i) for i, byte in enumerate(hidden)}

    def __call__(self, text: str) -> list[int]:
        if text and not text[0].isspace():
            text = " " + text
        text = "".join(character.lower() for character in text).rstrip()
        pieces = []
        for word in self.words.findall(text):
            pieces += self._merged([self.letter[byte] for byte in word.encode()])
        return [self.ids[piece] for piece in pieces]

    def _merged(self, parts: list[str]) -> list[str]:
        while True:
            pairs = itertools.pairwise(parts)
            known = [pair for pair in pairs if pair in self.rank]
            if not known:
                return parts
            best = min(known, key=self.rank.__getitem__)
            merged, i = [], 0
            while i < len(parts):
                both = tuple(parts[i : i + 2]) == best
                merged.append("".join(best) if both else parts[i])
                i += 2 if both else 1
            parts = merged


@pytest.mark.parametrize("text", [*SAMPLES, "", "  "])
def test_tokens_are_those_of_2019(folder, theirs, text):
    wanted = [0, *OldTokenizer(folder)(text), 2]
    assert theirs.encode([text], 500)[0].tolist() == wanted


@pytest.mark.parametrize("text", SAMPLES)
def test_tokens_are_those_of_todays_class_told_to(folder, theirs, text):
    """RobertaTokenizer with the space, of a text in lower case, is the same."""
    from transformers import RobertaTokenizer

    files = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    today = RobertaTokenizer(**files, add_prefix_space=True)
    # One character after another: Python's own would end a word in another sigma.
    lower = "".join(character.lower() for character in text).rstrip()
    assert theirs.encode([text], 500)[0].tolist() == today(lower)["input_ids"]


def test_the_trap(folder, theirs):
    """What today's tokenizer makes of a plain query is something else."""
    plain = load_tokenizer(folder)
    query = "Water from Rivers"
    assert (
        plain.encode([query], 99)[0].tolist() != theirs.encode([query], 99)[0].tolist()
    )
    tokens = theirs.tokens(theirs.pieces(["water Water WATER"])[0])
    word = tokens[: len(tokens) // 3]
    assert word[0].startswith("Ġ")
    assert tokens == 3 * word
    assert plain.tokens(plain.pieces(["water"])[0])[0][0] == "w"


def test_it_is_stored_with_the_tokenizer(folder, theirs, tmp_path):
    theirs.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.fingerprint == theirs.fingerprint
    assert lower_cased(again).fingerprint == theirs.fingerprint
    assert again.pad_id == 1
    assert again.frame == theirs.frame
    for text in SAMPLES:
        assert (
            again.encode([text], 500)[0].tolist()
            == theirs.encode([text], 500)[0].tolist()
        )


def test_transformers_reads_the_saved_one_so_too(theirs, tmp_path):
    from transformers import AutoTokenizer

    theirs.save(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text('{"model_type": "roberta"}')
    found = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in SAMPLES:
        assert found(text)["input_ids"] == theirs.encode([text], 500)[0].tolist()


def test_long_texts_keep_their_end(theirs):
    ids = theirs.encode([" ".join(TEXTS)], 12)[0].tolist()
    assert (len(ids), ids[0], ids[-1]) == (12, 0, 2)


def test_other_sorts_are_refused(tmp_path, folder):
    from tokenizers import Tokenizer, normalizers

    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    with pytest.raises(InputError, match="by 'BertPreTokenizer'; expected a byte"):
        lower_cased(load_tokenizer(tmp_path / "vocab.txt"))
    other = Tokenizer.from_file(str(folder / "tokenizer.json"))
    other.normalizer = normalizers.NFKC()
    other.save(str(folder / "tokenizer.json"))
    with pytest.raises(InputError, match="the normalizer 'NFKC'; expected none, or"):
        lower_cased(load_tokenizer(folder))
    other.normalizer = normalizers.Lowercase()
    other.save(str(folder / "tokenizer.json"))
    assert lower_cased(load_tokenizer(folder)).pieces(["A"])[0].size > 0


def test_a_tokenizer_that_is_not_the_models(folder, theirs, tmp_path):
    plain = load_tokenizer(folder)
    check_like(theirs, theirs)
    with pytest.raises(InputError, match="tells A from a; expected one that takes A"):
        check_like(plain, theirs)
    with pytest.raises(InputError, match="takes A for a; expected one that tells A"):
        check_like(theirs, plain)
    smaller = byte_level_tokenizer(tmp_path / "smaller", size=300)
    with pytest.raises(InputError, match="of 300 tokens; expected one of 340 tokens"):
        check_like(load_tokenizer(smaller), plain)
    definition = (folder / "tokenizer.json").read_text()
    swapped = re.sub(
        r'"(cls|sep)": \[\s*"(</?s>)",\s*\d\s*\]', r'"\1": ["<mask>", 4]', definition
    )
    (folder / "tokenizer.json").write_text(swapped)
    with pytest.raises(InputError, match=r"with \[4\] before and \[4\] behind"):
        check_like(load_tokenizer(folder), plain)
