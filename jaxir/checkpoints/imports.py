"""Whose model lies at a place: other libraries' layouts, told apart and read.

A new layout adds a row to ``_SCHEMES`` or ``_FOLDERS`` here and nothing elsewhere.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxir.checkpoints.cross_encoder import is_cross_encoder, load_cross_encoder
from jaxir.checkpoints.hypencoder import is_hypencoder, load_hypencoder
from jaxir.checkpoints.jpq import is_jpq, load_jpq, their_tokenizer
from jaxir.checkpoints.rank_t5 import is_rank_t5, load_rank_t5
from jaxir.checkpoints.sentence_transformers import (
    is_sentence_transformer,
    load_dpr,
    load_plain_encoder,
    load_sentence_transformer,
)
from jaxir.checkpoints.sparse import load_sparse
from jaxir.checkpoints.sparse_layout import is_sparse
from jaxir.checkpoints.t5_huggingface import is_t5, load_t5
from jaxir.checkpoints.t5x import load_t5x
from jaxir.errors import InputError
from jaxir.rank.model import RankT5Config
from jaxir.text import Tokenizer
from jaxir.types import Params

__all__ = ["Imported", "import_folder", "import_named"]

_TOKENIZERS = ("tokenizer.json", "spiece.model", "vocab.txt")


def _as_it_is(tokenizer: Tokenizer, config: Any, where: object) -> Tokenizer:
    del config, where
    return tokenizer


class Imported(NamedTuple):
    """A model out of somebody else's files.

    Attributes:
      kind: its family's name.
      config: its family's configuration.
      params: its parameters, float32 arrays in host memory.
      tokenizer_path: where its tokenizer is, None where the layout carries none.
      tokenizer: ``tokenizer(found, config, where)``, the model's own form of the
        tokenizer that is found; it refuses one that is not the model's.
    """

    kind: str
    config: Any
    params: Params
    tokenizer_path: Path | None
    tokenizer: Callable[[Tokenizer, Any, object], Tokenizer] = _as_it_is


def import_named(spec: str) -> Imported | None:
    """The model of a spec that names its layout, as ``dpr:``; None of others.

    Raises:
      InputError: as the layout's own reader.
    """
    for scheme, read in _SCHEMES.items():
        if spec.startswith(scheme):
            return read(spec.removeprefix(scheme))
    return None


def import_folder(directory: Path, spec: str) -> Imported:
    """The model of a folder of sentence-transformers' or Hugging Face's.

    Args:
      directory: the folder.
      spec: how the user named it.

    Raises:
      InputError: nothing that is known, or as the layout's own reader.
    """
    for is_such, read in _FOLDERS:
        if is_such(directory):
            return read(directory, spec)
    raise InputError(
        directory,
        "no model here",
        "model.json (jaxir), modules.json (sentence-transformers) or config.json",
        "a training that was interrupted leaves checkpoints/ only: run it to its end; "
        "a T5X checkpoint is written t5x:PATH",
    )


def _dpr(encoders: str) -> Imported:
    question, comma, context = encoders.partition(",")
    if not comma:
        raise InputError(f"dpr:{encoders}", "one encoder", "dpr:QUESTION,CONTEXT")
    return Imported("dense", *load_dpr(question, context))


def _jpq(encoders: str) -> Imported:
    query, comma, doc = encoders.partition(",")
    if not comma:
        raise InputError(f"jpq:{encoders}", "one encoder", "jpq:QUERY,DOC")
    return Imported(*load_jpq(query, doc), tokenizer=their_tokenizer)


def _t5x(place: str) -> Imported:
    path = Path(place).expanduser()
    config, params = load_t5x(path)
    near = _tokenizer_near(path)
    if "score_head" in params:
        return Imported("rank_t5", RankT5Config(config, head="enc"), params, near)
    return Imported("t5", config, params, near)


def _tokenizer_near(path: Path) -> Path | None:
    """The folder with a tokenizer that lies in a checkpoint's folder or beside it."""
    path = path.absolute()
    if path.name == "checkpoint":  # the file inside checkpoint_N
        path = path.parent
    for folder in (path, path / "tokenizer", path.parent, path.parent / "tokenizer"):
        if any((folder / name).is_file() for name in _TOKENIZERS):
            return folder
    return None


def _cross_encoder(directory: Path, spec: str) -> Imported:
    del spec
    return Imported("rank_bert", *load_cross_encoder(directory), directory)


def _sentence_transformer(directory: Path, spec: str) -> Imported:
    del spec
    return Imported("dense", *load_sentence_transformer(directory))


def _jpq_folder(directory: Path, spec: str) -> Imported:
    del spec
    return Imported(*load_jpq(directory), tokenizer=their_tokenizer)


def _hypencoder(directory: Path, spec: str) -> Imported:
    del spec
    return Imported("hypencoder", *load_hypencoder(directory), directory)


def _sparse(directory: Path, spec: str) -> Imported:
    del spec
    return Imported("sparse", *load_sparse(directory))


def _rank_t5(directory: Path, spec: str) -> Imported:
    del spec
    return Imported("rank_t5", *load_rank_t5(directory), directory)


def _t5(directory: Path, spec: str) -> Imported:
    del spec
    return Imported("t5", *load_t5(directory), directory)


def _plain(directory: Path, spec: str) -> Imported:
    del directory
    return Imported("dense", *load_plain_encoder(spec))


def _has_config(directory: Path) -> bool:
    return (directory / "config.json").is_file()


_SCHEMES: dict[str, Callable[[str], Imported]] = {
    "dpr:": _dpr,
    "jpq:": _jpq,
    "t5x:": _t5x,
}
# In this order: a classifier's folder may have modules.json, any may have config.json.
_FOLDERS: tuple[tuple[Callable[[Path], bool], Callable[[Path, str], Imported]], ...] = (
    (is_jpq, _jpq_folder),
    (is_cross_encoder, _cross_encoder),
    (is_sparse, _sparse),
    (is_sentence_transformer, _sentence_transformer),
    (is_hypencoder, _hypencoder),
    (is_rank_t5, _rank_t5),
    (is_t5, _t5),
    (_has_config, _plain),
)
