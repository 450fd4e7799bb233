"""Hugging Face's sequence classifiers with one label: cross-encoders, in and out.

BERT, RoBERTa and DistilBERT under ``…ForSequenceClassification``, also as
sentence-transformers' ``CrossEncoder`` saves them.  The score is the logit; the
sigmoid that ``CrossEncoder.predict`` puts behind some of them keeps its order.

=========== =========================== ====================== =======================
family      before the score            ours                   theirs
=========== =========================== ====================== =======================
bert        pooler, tanh                ``backbone/pooler``    ``bert.pooler.dense``
roberta     dense, tanh                 ``hidden``             ``classifier.dense``
distilbert  dense, ReLU                 ``hidden``             ``pre_classifier``
=========== =========================== ====================== =======================
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxir.checkpoints.huggingface import (
    backbone_config,
    backbone_params,
    backbone_to_huggingface,
    backbone_weights,
    write_tokenizer_config,
)
from jaxir.checkpoints.rules import TRANSPOSE, Rule, apply_rules, invert
from jaxir.checkpoints.weights import read_json, read_weights, resolve, save_weights
from jaxir.errors import InputError
from jaxir.files import atomic_file
from jaxir.rank.model import CrossEncoderConfig
from jaxir.types import Params

__all__ = [
    "PretrainedCrossEncoder",
    "export_cross_encoder",
    "is_cross_encoder",
    "load_cross_encoder",
]


class PretrainedCrossEncoder(NamedTuple):
    """A cross-encoder as it comes from a checkpoint.

    Attributes:
      config: the model.
      params: its parameters, float32 arrays in host memory.
    """

    config: CrossEncoderConfig
    params: Params


class _Head(NamedTuple):
    """How a family writes what stands between its encoder and the score.

    Attributes:
      prefix: of the encoder's names.
      class_name: in ``architectures``.
      dropout: key of the rate of dropout in ``config.json``.
      hidden: activation of the hidden layer, None where it is the encoder's pooler.
      rules: hidden layer and score.
    """

    prefix: str
    class_name: str
    dropout: str
    hidden: str | None
    rules: tuple[Rule, ...]


def _dense(source: str, target: str) -> tuple[Rule, Rule]:
    return (
        Rule(f"{source}.weight", f"{target}/kernel", TRANSPOSE),
        Rule(f"{source}.bias", f"{target}/bias"),
    )


_SCORE = "score_head/dense"
_HEADS = {
    "bert": _Head(
        "bert.",
        "BertForSequenceClassification",
        "classifier_dropout",
        None,
        _dense("classifier", _SCORE),
    ),
    "roberta": _Head(
        "roberta.",
        "RobertaForSequenceClassification",
        "classifier_dropout",
        "tanh",
        (*_dense("classifier.dense", "hidden"), *_dense("classifier.out_proj", _SCORE)),
    ),
    "distilbert": _Head(
        "distilbert.",
        "DistilBertForSequenceClassification",
        "seq_classif_dropout",
        "relu",
        (*_dense("pre_classifier", "hidden"), *_dense("classifier", _SCORE)),
    ),
}
_HEAD_NAMES = ("classifier.", "pre_classifier.")


def is_cross_encoder(directory: Path) -> bool:
    """Whether a folder holds a sequence classifier, and no bi-encoder over one."""
    path = directory / "config.json"
    if not path.is_file():
        return False
    classes = read_json(path).get("architectures") or []
    if not any(str(name).endswith("ForSequenceClassification") for name in classes):
        return False
    if not (directory / "modules.json").is_file():
        return True
    settings = directory / "config_sentence_transformers.json"
    kind = read_json(settings).get("model_type") if settings.is_file() else None
    return kind == "CrossEncoder"


def load_cross_encoder(spec: str | os.PathLike) -> PretrainedCrossEncoder:
    """A sequence classifier with one label, from a folder or ``hf:ID``.

    Args:
      spec: as ``weights.resolve`` takes it.

    Raises:
      InputError: another kind of encoder, more labels than one, or weights that do not
        fit, with the whole difference.
    """
    directory = resolve(spec)
    path = directory / "config.json"
    data = read_json(path)
    encoder = backbone_config(data, where=path)
    head = _HEADS[encoder.family]
    encoder = dataclasses.replace(encoder, pooler=head.hidden is None)
    rate = data.get(head.dropout)
    config = CrossEncoderConfig(
        encoder,
        hidden=head.hidden,
        dropout=encoder.dropout if rate is None else float(rate),
        max_length=_longest(directory, encoder.max_length),
    )
    weights = read_weights(directory)
    top = {n: x for n, x in weights.items() if n.startswith(_HEAD_NAMES)}
    _check_one_label(data, top, directory)
    backbone = backbone_params(encoder, weights, where=directory)
    width = encoder.hidden_size
    shapes: dict[str, Any] = {"score_head": {"dense": _dense_shapes(width, 1)}}
    if head.hidden is not None:
        shapes["hidden"] = _dense_shapes(width, width)
    tree = apply_rules(top, head.rules, shapes, where=directory)
    kept = jax.tree.map(lambda x: np.ascontiguousarray(x, np.float32), tree)
    return PretrainedCrossEncoder(config, {"backbone": backbone} | kept)


def _dense_shapes(inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def _check_one_label(
    data: Mapping[str, Any], top: Mapping[str, np.ndarray], directory: Path
) -> None:
    names = ("classifier.out_proj.weight", "classifier.weight")
    labels = [top[name].shape[0] for name in names if name in top]
    stated = data.get("num_labels") or len(data.get("id2label") or ()) or 1
    count = labels[0] if labels else stated
    if count != 1:
        raise InputError(
            directory,
            f"a classifier of {count} labels",
            "one label, the score",
            "take a cross-encoder that was trained to rank",
        )


def _longest(directory: Path, most: int) -> int:
    """The length that the tokenizer states, as sentence-transformers takes it."""
    path = directory / "tokenizer_config.json"
    length = read_json(path).get("model_max_length") if path.is_file() else None
    # Tokenizers without a limit say 10^30.
    return int(length) if length and 0 < length <= most else most


def export_cross_encoder(
    config: CrossEncoderConfig,
    params: Params,
    directory: str | os.PathLike,
    *,
    tokenizer: Any = None,
) -> None:
    """Writes a folder for ``AutoModelForSequenceClassification`` and ``CrossEncoder``.

    A hidden layer under tanh and BERT's pooler are the same function, and are written
    as whichever the family has.  ``CrossEncoder`` gives the logit itself.

    Args:
      config: a cross-encoder.
      params: its parameters.
      directory: where to write; made if absent.
      tokenizer: its tokenizer (``save(directory)``), whose files are written as well.

    Raises:
      InputError: a head that the family has no class for.
    """
    directory = Path(directory)
    family = config.backbone.family
    head = _HEADS[family]
    encoder, tree = _as_written(config, params, head, directory)
    data = backbone_to_huggingface(encoder) | {
        "architectures": [head.class_name],
        head.dropout: config.dropout,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "sentence_transformers": {
            "activation_fn": "torch.nn.modules.linear.Identity",
        },
    }
    inner = backbone_weights(encoder, tree.pop("backbone"), where=directory)
    weights = {head.prefix + name: array for name, array in inner.items()}
    host = jax.tree.map(lambda x: np.asarray(x, np.float32), tree)
    weights |= invert(host, head.rules, where=directory)
    save_weights(directory / "model.safetensors", weights)
    if tokenizer is not None:
        tokenizer.save(directory)
        write_tokenizer_config(directory, config.max_length)
    with atomic_file(directory / "config.json") as out:
        out.write(json.dumps(data, indent=2) + "\n")


def _as_written(
    config: CrossEncoderConfig, params: Params, head: _Head, where: Path
) -> tuple[Any, dict[str, Any]]:
    """The encoder's configuration and the parameters as the family's class has them."""
    tree = dict(params)
    hidden = config.hidden
    if config.backbone.pooler and hidden is None:
        tree["backbone"] = dict(tree["backbone"])
        tree["hidden"] = tree["backbone"].pop("pooler")
        hidden = "tanh"
    wanted = head.hidden or "tanh"
    if config.pooling != "cls" or hidden != wanted or "pooler" in tree["backbone"]:
        found = f"pooling {config.pooling!r} and hidden {hidden!r}"
        expected = f"'cls' and {wanted!r}, which {head.class_name} computes"
        remedy = "keep it as a jaxir directory"
        raise InputError(where, found, expected, remedy)
    encoder = dataclasses.replace(config.backbone, pooler=head.hidden is None)
    if head.hidden is None:
        tree["backbone"] = dict(tree["backbone"]) | {"pooler": tree.pop("hidden")}
    return encoder, tree
