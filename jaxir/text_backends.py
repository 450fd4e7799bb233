"""What stands behind :class:`jaxir.text.Tokenizer`: one backend for each kind of file.

Every backend turns texts into ids without special tokens and tells which special tokens
stand around a text and around a pair; cutting and joining are done once, in
:mod:`jaxir.text`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxir.errors import InputError

__all__ = [
    "Backend",
    "Frame",
    "bert_wordpiece",
    "from_json",
    "from_rust",
    "from_sentencepiece",
    "lower_cased",
    "read_settings",
    "through_transformers",
]


class Frame(NamedTuple):
    """Special tokens around a text, or around the two texts of a pair."""

    prefix: list[int]
    middle: list[int]
    suffix: list[int]
    typed: bool  # the second text is of segment 1


class Backend(NamedTuple):
    """What a tokenizer library does for us."""

    pieces: Callable[[list[str]], list[list[int]]]  # ids without special tokens
    decode: Callable[[list[int]], str]
    token_to_id: Callable[[str], int | None]
    id_to_token: Callable[[int], str | None]
    single: Frame
    pair: Frame
    vocab_size: int
    special_ids: tuple[int, ...]
    pad_id: int
    files: dict[str, bytes]  # what `save` writes; the first decides the fingerprint


def read_settings(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json`` beside a tokenizer, empty if there is none."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(path, f"broken JSON ({error})", remedy="mend it") from error
    return settings if isinstance(settings, dict) else {}


def from_rust(tokenizer: Any, settings: dict[str, Any]) -> Backend:
    """A ``tokenizers.Tokenizer``, with the settings transformers would apply."""
    from tokenizers.normalizers import BertNormalizer

    tokenizer.no_truncation()
    tokenizer.no_padding()
    if isinstance(tokenizer.normalizer, BertNormalizer):
        # transformers lets tokenizer_config.json overrule tokenizer.json here
        for key, attribute in (
            ("do_lower_case", "lowercase"),
            ("strip_accents", "strip_accents"),
            ("tokenize_chinese_chars", "handle_chinese_chars"),
        ):
            value = settings.get(key, getattr(tokenizer.normalizer, attribute))
            if value != getattr(tokenizer.normalizer, attribute):
                setattr(tokenizer.normalizer, attribute, value)

    def pieces(texts: list[str]) -> list[list[int]]:
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    added = tokenizer.get_added_tokens_decoder()
    special = {i for i, token in added.items() if token.special}
    for key in ("pad", "unk", "cls", "sep", "mask", "bos", "eos"):
        token = settings.get(f"{key}_token")
        token = token.get("content") if isinstance(token, dict) else token
        found = tokenizer.token_to_id(token) if isinstance(token, str) else None
        special |= set() if found is None else {found}
    named = settings.get("pad_token")
    named = named.get("content") if isinstance(named, dict) else named
    pads = (tokenizer.token_to_id(t) for t in (named, "[PAD]", "<pad>") if t)
    pad_id = next((pad for pad in pads if pad is not None), 0)
    written = {k: v for k, v in settings.items() if k != "added_tokens_decoder"}
    written.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    return Backend(
        pieces,
        lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
        tokenizer.token_to_id,
        tokenizer.id_to_token,
        _frame(tokenizer.encode("a", add_special_tokens=True)),
        _frame(tokenizer.encode("a", "a", add_special_tokens=True)),
        max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1,
        tuple(sorted(special)),
        pad_id,
        {
            "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
            "tokenizer_config.json": json.dumps(written, indent=2).encode(),
        },
    )


def _frame(encoding: Any) -> Frame:
    """The special tokens of an encoding of ``a``, or of the pair ``a``, ``a``."""
    groups: list[list[int]] = [[]]
    inside = False
    typed = False
    sequences = encoding.sequence_ids  # None at special tokens, else 0 or 1
    for token, sequence, kind in zip(
        encoding.ids, sequences, encoding.type_ids, strict=True
    ):
        if sequence is None:
            if inside:
                groups.append([])
            groups[-1].append(token)
        elif sequence == 1:
            typed = typed or kind == 1
            if len(groups) == 1:  # nothing between the two
                groups.append([])
        inside = sequence is not None
    if inside:
        groups.append([])
    if len(groups) == 2:
        return Frame(groups[0], [], groups[1], typed)
    return Frame(groups[0], groups[1], groups[2], typed)


def bert_wordpiece(path: Path, settings: dict[str, Any]) -> Backend:
    """BERT's WordPiece from a bare ``vocab.txt``, uncased unless settings say not."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    # Only newlines end a token: multilingual vocabularies hold U+2028 and its like.
    lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    vocab = {token: i for i, token in enumerate(lines)}
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    missing = [token for token in specials[:4] if token not in vocab]
    if missing:
        raise InputError(
            path, f"no {', '.join(missing)}", "BERT's vocabulary, one token a line",
            "give a folder with tokenizer.json",
        )  # fmt: skip
    tokenizer = Tokenizer(
        models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in specials if t in vocab]
    )
    named = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    defaults = {f"{key}_token": specials[i] for key, i in named.items()}
    defaults["tokenizer_class"] = "BertTokenizer"
    return from_rust(tokenizer, {"do_lower_case": True, **defaults, **settings})


def from_sentencepiece(path: Path, settings: dict[str, Any]) -> Backend:
    """T5's sentencepiece model with its extra ids, counted down from the top."""
    import sentencepiece

    content = path.read_bytes()
    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromSerializedProto(content)
    except RuntimeError as error:
        raise InputError(path, "not a sentencepiece model") from error
    size, extra = model.get_piece_size(), int(settings.get("extra_ids", 100))
    sentinels = {f"<extra_id_{i}>": size + extra - 1 - i for i in range(extra)}
    by_id = {i: token for token, i in sentinels.items()}
    end = [] if model.eos_id() < 0 else [model.eos_id()]
    special = {model.pad_id(), model.unk_id(), *end, *by_id} - {-1}

    def token_to_id(token: str) -> int | None:
        if token in sentinels:
            return sentinels[token]
        found = model.piece_to_id(token)
        known = found != model.unk_id() or token == model.id_to_piece(found)
        return found if known else None

    def id_to_token(i: int) -> str | None:
        return by_id.get(i) or (model.id_to_piece(i) if 0 <= i < size else None)

    return Backend(
        lambda texts: model.encode(texts),
        lambda ids: model.decode([i for i in ids if i not in special]),
        token_to_id,
        id_to_token,
        Frame([], [], end, False),
        Frame([], end, end, False),
        size + extra,
        tuple(sorted(special)),
        max(model.pad_id(), 0),
        {
            "spiece.model": content,
            "tokenizer_config.json": json.dumps(
                {"tokenizer_class": "T5Tokenizer", **settings, "extra_ids": extra},
                indent=2,
            ).encode(),
        },
    )


def through_transformers(name: str) -> Backend:
    """Whatever AutoTokenizer makes of a folder or a Hugging Face id.

    Raises:
      InputError: nothing, or a tokenizer without a ``tokenizer.json`` form.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            name, f"no tokenizer here ({reason[:120]})",
            "a folder with tokenizer.json, vocab.txt or spiece.model, or hf:ID",
            "check the path, or the network for hf:ID",
        ) from error  # fmt: skip
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None or not hasattr(inner, "encode_batch_fast"):
        raise InputError(
            name, f"{type(tokenizer).__name__} has no tokenizer.json form",
            remedy="save it as a fast tokenizer first",
        )  # fmt: skip
    settings: dict[str, Any] = {"tokenizer_class": type(tokenizer).__name__}
    named = tokenizer.special_tokens_map.items()
    settings |= {k: str(token) for k, token in named if not isinstance(token, list)}
    return from_rust(inner, settings)


def from_json(path: Path, settings: dict[str, Any]) -> Backend:
    """A ``tokenizer.json``.

    Raises:
      InputError: the file is none.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise InputError(path, f"not a tokenizer ({error})") from error
    return from_rust(tokenizer, settings)


def lower_cased(backend: Backend, name: object) -> Backend:
    """A byte-level tokenizer that reads texts in lower case, a space before them.

    Raises:
      InputError: no byte-level tokenizer, or one that changes texts otherwise.
    """
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

    data = json.loads(backend.files.get("tokenizer.json", b"{}"))
    split = data.get("pre_tokenizer") or {}
    if split.get("type") != "ByteLevel":
        raise InputError(
            name, f"a tokenizer that splits texts by {split.get('type', 'itself')!r}",
            "a byte-level one, RoBERTa's",
        )  # fmt: skip
    ours = [normalizers.Strip(left=False, right=True), normalizers.Lowercase()]
    changes = normalizers.Sequence(ours)
    tokenizer = Tokenizer.from_str(json.dumps(data | {"normalizer": None}))
    tokenizer.normalizer = changes
    wanted = json.loads(tokenizer.to_str())["normalizer"]
    if data.get("normalizer") not in (None, {"type": "Lowercase"}, wanted):
        found = f"a tokenizer with the normalizer {data['normalizer'].get('type')!r}"
        raise InputError(name, found, "none, or lower-casing")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=True, use_regex=split.get("use_regex", True)
    )
    settings = json.loads(backend.files["tokenizer_config.json"])
    # transformers' own RobertaTokenizer would make the two anew, without lower case.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    return from_rust(tokenizer, settings)
