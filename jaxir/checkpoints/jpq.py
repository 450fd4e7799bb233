"""The towers of JPQ's authors, in and out: ``RobertaDot`` and ``JPQTower``.

``RobertaDot`` (Zhan et al. 2021, "Jointly Optimizing Query Encoder and Product
Quantization"; the same authors' STAR and ADORE) is a RoBERTa whose first token's state
goes through a linear map and a layer norm; ``JPQTower`` is one with the codec inside,
whose vectors come out rotated.

==================================== ==================================================
theirs                               ours
==================================== ==================================================
``roberta.*``                        ``{side}/backbone/*``
``embeddingHead.{weight,bias}``      ``{side}/projection/{kernel,bias}``
``norm.{weight,bias}``               ``{side}/projection_norm/{scale,bias}``
``centroids`` of the query encoder   ``codec/centroids``
``centroids`` of the doc encoder     ``codec/assignment``
``rotation`` of either               ``codec/rotation``
==================================== ==================================================

One ``RobertaDot`` is a bi-encoder with a shared tower, two are one with separate
towers, and two ``JPQTower`` are a JPQ model.  Two stand in one folder as
``*query.encoder`` and ``*doc.encoder``, or are named ``jpq:QUERY,DOC``.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxir.checkpoints.huggingface import (
    backbone_config,
    backbone_rules,
    backbone_to_huggingface,
    write_tokenizer_config,
)
from jaxir.checkpoints.rules import TRANSPOSE, Rule, apply_rules, invert
from jaxir.checkpoints.weights import read_json, read_weights, resolve, save_weights
from jaxir.errors import InputError
from jaxir.families import config_from_dict, config_to_dict
from jaxir.files import atomic_file
from jaxir.nn.bert import BertConfig
from jaxir.nn.tower import TowersConfig, init_towers
from jaxir.pq.codec import BITS
from jaxir.text import Tokenizer, lower_cased
from jaxir.types import Params

__all__ = [
    "ImportedTowers",
    "check_expressible",
    "export_jpq",
    "is_expressible",
    "is_jpq",
    "load_jpq",
    "their_tokenizer",
]

Side = Literal["query", "doc"]

_CLASSES = {"dense": "RobertaDot", "jpq": "JPQTower"}
_SIDES: tuple[Side, Side] = ("query", "doc")
_KEY = "jaxir_jpq"
# What our configuration says and theirs has no place for.
_OURS = ("backbone", "query_length", "doc_length", "query_template", "doc_template")
_LENGTHS = {"query_length": 32, "doc_length": 512}  # of the authors' evaluation
_FRAME = {"bos_token_id": 0, "eos_token_id": 2}  # RoBERTa's, where a file has none
_TOKENIZERS = ("tokenizer.json", "vocab.json")

# What the authors' classes cannot compute otherwise.
_FIXED: dict[str, Any] = {
    "pooling": "cls",
    "similarity": "dot",
    "projection_activation": "layer_norm",
}

_HEAD = (
    Rule("embeddingHead.weight", "projection/kernel", TRANSPOSE),
    Rule("embeddingHead.bias", "projection/bias"),
    Rule("norm.weight", "projection_norm/scale"),
    Rule("norm.bias", "projection_norm/bias"),
)
_CODEC = (Rule("centroids", "codec/centroids"), Rule("rotation", "codec/rotation"))


class ImportedTowers(NamedTuple):
    """Towers as they come from the authors' files.

    Attributes:
      kind: ``dense``, or ``jpq`` where they have a codec.
      config: of that kind.
      params: parameters, float32 arrays in host memory.
      tokenizer_path: the folder with a tokenizer, None where there is none.
    """

    kind: str
    config: TowersConfig
    params: Params
    tokenizer_path: Path | None


def is_jpq(directory: Path) -> bool:
    """Whether a folder holds a tower of the authors, or two of them."""
    return _is_tower(directory) or len(_pair(directory)) == 2


def _is_tower(directory: Path) -> bool:
    path = directory / "config.json"
    if not path.is_file():
        return False
    data = read_json(path)
    names = data.get("architectures") or [""]
    classes = tuple(_CLASSES.values())
    return "MCQ_M" in data or str(names[0]).startswith(classes)


def _pair(directory: Path) -> dict[Side, Path]:
    """The folders of a query encoder and of a document encoder, of each exactly one."""
    found: dict[Side, Path] = {}
    for side in _SIDES:
        named = [p for p in directory.glob(f"*{side}.encoder") if _is_tower(p)]
        if len(named) == 1:
            found[side] = named[0]
    return found


def load_jpq(query: str | os.PathLike, doc: str | os.PathLike = "") -> ImportedTowers:
    """One tower or two of the authors', from folders or ``hf:ID``.

    Where a folder does not say how long texts may be, these are the 32 and 512 tokens
    of the authors' evaluation.

    Args:
      query: the query encoder, or a folder with both encoders, or the one encoder of
        queries and documents.
      doc: the document encoder.

    Raises:
      InputError: other models, weights that do not fit, with the whole difference, one
        ``JPQTower`` alone, or two towers that are not of one model.
    """
    directory = resolve(query)
    pair = {} if doc else _pair(directory)
    if pair and not _is_tower(directory):
        folders = [pair[side] for side in _SIDES]
    else:
        folders = [directory, *([resolve(doc)] if doc else [])]
    towers = [_read_tower(folder) for folder in folders]
    first, last = towers[0], towers[-1]
    if first.codec is not None and len(towers) == 1:
        raise InputError(
            directory, "one JPQTower", "two, for queries and for documents",
            "name both: jpq:QUERY,DOC, or the folder that holds both",
        )  # fmt: skip
    if first.fields != last.fields:
        differing = sorted(
            k for k, v in first.fields.items() if v != last.fields.get(k)
        )
        found = f"a tower of another {', '.join(differing or list(last.fields))}"
        raise InputError(folders[-1], found, f"as {folders[0]} has it")
    near = [f for f in folders if any((f / name).is_file() for name in _TOKENIZERS)]
    place = near[0] if near else None
    if len(towers) == 1:
        config = config_from_dict("dense", first.fields, where=directory)
        return ImportedTowers("dense", config, {"shared": first.tower}, place)
    kind = "dense" if first.codec is None else "jpq"
    fields = first.fields | {"towers": "separate"}
    config = config_from_dict(kind, fields, where=directory)
    params: dict[str, Any] = {"query": first.tower, "doc": last.tower}
    if first.codec is not None and last.codec is not None:
        rotation = first.codec["rotation"]
        if not np.array_equal(rotation, last.codec["rotation"]):
            found = "a rotation other than the query encoder's"
            raise InputError(folders[-1], found, f"that of {folders[0]}")
        params["codec"] = {
            "rotation": rotation,
            "centroids": first.codec["centroids"],
            "assignment": last.codec["centroids"],
        }
    return ImportedTowers(kind, config, params, place)


class _Tower(NamedTuple):
    """One folder: the fields of a configuration, the tower, a codec or None."""

    fields: dict[str, Any]
    tower: Params
    codec: Params | None


def _read_tower(directory: Path) -> _Tower:
    path = directory / "config.json"
    data = read_json(path)
    if not _is_tower(directory):
        found = f"architectures {data.get('architectures')!r}"
        raise InputError(path, found, " or ".join(_CLASSES.values()))
    backbone = backbone_config(data, where=path)
    if backbone.family != "roberta":
        raise InputError(path, f"model_type {data['model_type']!r}", "'roberta'")
    weights = read_weights(directory)
    fields = _fields(data, backbone, path)
    config = config_from_dict("dense", fields, where=path)
    whole = jax.eval_shape(lambda: init_towers(config, jax.random.key(0)))
    shapes = dict(whole["shared"])
    rules, ignore = backbone_rules(
        config.backbone, inside="roberta.", under="backbone/"
    )
    table = [*rules, *_HEAD]
    if "MCQ_M" in data or "centroids" in weights:
        width = backbone.hidden_size
        codec = _codec_fields(data, weights, width, path)
        parts, size = codec["subvectors"], 1 << codec["bits"]
        shapes["codec"] = {
            "centroids": (parts, size, width // parts),
            "rotation": (width, width),
        }
        fields, table = fields | codec, [*table, *_CODEC]
    tree = apply_rules(weights, table, shapes, where=directory, ignore=ignore)
    tree = jax.tree.map(lambda x: np.ascontiguousarray(x, np.float32), tree)
    return _Tower(fields, tree, tree.pop("codec", None))


def _fields(
    data: Mapping[str, Any], backbone: BertConfig, path: Path
) -> dict[str, Any]:
    """The configuration of a bi-encoder of one such tower."""
    lengths = {name: min(x, backbone.max_length) for name, x in _LENGTHS.items()}
    own = data.get(_KEY, {})
    if not isinstance(own, dict):
        raise InputError(path, f"{_KEY} {own!r}", "an object")
    plain = {"backbone": config_to_dict(backbone), **lengths, **own}
    return plain | _FIXED | {"projection_size": backbone.hidden_size}


def _codec_fields(
    data: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    width: int,
    path: Path,
) -> dict[str, Any]:
    """The codec's shape, of ``config.json`` or as its tensor tells."""
    shape = getattr(weights.get("centroids"), "shape", ())
    parts = data.get("MCQ_M", shape[0] if shape else None)
    size = data.get("MCQ_K", shape[1] if len(shape) == 3 else 256)
    known = {1 << bits: bits for bits in BITS}
    whole = type(parts) is int and 0 < parts <= width and width % parts == 0
    if not whole or size not in known:
        found = f"MCQ_M {parts!r}, MCQ_K {size!r}"
        raise InputError(path, found, f"a divisor of {width}, and 256 or 16")
    return {"subvectors": parts, "bits": known[size]}


def their_tokenizer(
    tokenizer: Tokenizer, config: TowersConfig, where: object
) -> Tokenizer:
    """RoBERTa's tokenizer in the form that the towers were trained with.

    See :func:`jaxir.text.lower_cased`.

    Args:
      tokenizer: RoBERTa's, lower-casing or not.
      config: of the towers.
      where: names it in the error.

    Raises:
      InputError: a tokenizer of another size, other special tokens or another sort.
    """
    backbone = config.backbone
    remedy = "take the tokenizer that the model was trained with, RoBERTa's"
    if tokenizer.vocab_size != backbone.vocab_size:
        raise InputError(
            where, f"a tokenizer of {tokenizer.vocab_size:,} tokens",
            f"{backbone.vocab_size:,}, the rows of the model's table", remedy,
        )  # fmt: skip
    frame = tokenizer.frame
    ids = (frame.prefix, frame.suffix, tokenizer.pad_id)
    wanted = ([_FRAME["bos_token_id"]], [_FRAME["eos_token_id"]], backbone.pad_id)
    if ids != wanted:
        raise InputError(
            where, f"a tokenizer with {ids[0]} before and {ids[1]} behind a text, "
            f"{ids[2]} as padding",
            f"{wanted[0]}, {wanted[1]} and {wanted[2]}", remedy,
        )  # fmt: skip
    return lower_cased(tokenizer)


def export_jpq(
    kind: str,
    config: TowersConfig,
    params: Params,
    directory: str | os.PathLike,
    *,
    tokenizer: Any = None,
) -> None:
    """Writes folders for the authors' classes' ``from_pretrained``.

    A shared tower is written to the folder itself, separate ones to
    ``query.encoder/`` and ``doc.encoder/`` in it, and those of a JPQ model to
    ``m{M}.query.encoder/`` and ``m{M}.doc.encoder/``.  Lengths and templates are kept
    in ``config.json`` as well, so that :func:`load_jpq` gives the same model.

    Args:
      kind: ``dense`` or ``jpq``.
      config: of that kind.
      params: its parameters.
      directory: where to write; made if absent.
      tokenizer: its tokenizer (``save(directory)``), whose files are written as well.

    Raises:
      InputError: towers that the authors' classes cannot compute.
    """
    directory = Path(directory)
    check_expressible(config, directory)
    data = backbone_to_huggingface(config.backbone) | _FRAME
    ours = config_to_dict(config)
    data |= {"architectures": [_CLASSES[kind]], _KEY: {k: ours[k] for k in _OURS}}
    rules, _ = backbone_rules(config.backbone, inside="roberta.", under="backbone/")
    table = [*rules, *_HEAD, *_CODEC]
    host = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    prefix = ""
    if kind == "jpq":
        parts, size, _ = host["codec"]["centroids"].shape
        data |= {"MCQ_M": parts, "MCQ_K": size}
        prefix = f"m{parts}."
    for tower in ("shared",) if config.towers == "shared" else _SIDES:
        folder = directory
        if tower != "shared":
            folder = directory / f"{prefix}{tower}.encoder"
        tree = dict(host[tower])
        if kind == "jpq":
            name = "centroids" if tower == "query" else "assignment"
            codec = host["codec"]
            tree["codec"] = {"centroids": codec[name], "rotation": codec["rotation"]}
        weights = invert(tree, table, where=directory)
        save_weights(folder / "model.safetensors", weights)
        if tokenizer is not None:
            tokenizer.save(folder)
            write_tokenizer_config(folder, config.backbone.max_length)
        with atomic_file(folder / "config.json") as out:
            out.write(json.dumps(data, indent=2) + "\n")


def is_expressible(config: TowersConfig) -> bool:
    """Whether the authors' classes can compute such towers."""
    return not _differences(config)


def check_expressible(config: TowersConfig, where: object) -> None:
    """Checks that the authors' classes can compute such towers.

    Args:
      config: of kind ``dense`` or ``jpq``.
      where: what is being written, for the error.

    Raises:
      InputError: they cannot.
    """
    differing = _differences(config)
    if differing:
        found, expected = (
            ", ".join(f"{name}={pair[i]!r}" for name, pair in differing.items())
            for i in (0, 1)
        )
        raise InputError(
            where, found, f"{expected}, which RobertaDot computes",
            "keep it as a jaxir directory",
        )  # fmt: skip


def _differences(config: TowersConfig) -> dict[str, tuple[Any, Any]]:
    """What of a configuration is not theirs: our value and theirs, by name."""
    backbone = config.backbone
    wanted = _FIXED | {"projection_size": backbone.hidden_size}
    pairs = {name: (getattr(config, name), x) for name, x in wanted.items()}
    for name, value in (("family", "roberta"), ("pooler", False)):
        pairs[f"backbone.{name}"] = (getattr(backbone, name), value)
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
