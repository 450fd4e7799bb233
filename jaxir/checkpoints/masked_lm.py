"""Hugging Face's masked language models, in and out: an encoder and its head.

``BertForMaskedLM``, ``RobertaForMaskedLM`` and ``DistilBertForMaskedLM``.  Their heads
(BERT's stand under ``cls.predictions.``, RoBERTa's under ``lm_head.``):

============= ======================= ============== ====================
ours, head/   bert                    roberta        distilbert
============= ======================= ============== ====================
``transform`` ``transform.dense``     ``dense``      ``vocab_transform``
``norm``      ``transform.LayerNorm`` ``layer_norm`` ``vocab_layer_norm``
``bias``      ``bias``                ``bias``       ``vocab_projector``
``decoder``   ``decoder``             ``decoder``    ``vocab_projector``
============= ======================= ============== ====================

A decoder that is tied to the word table may be in the file or not.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxir.checkpoints.huggingface import (
    backbone_config,
    backbone_rules,
    backbone_to_huggingface,
    modern_name,
)
from jaxir.checkpoints.rules import TRANSPOSE, Rule, apply_rules, invert
from jaxir.checkpoints.weights import read_json, read_weights, save_weights
from jaxir.errors import InputError
from jaxir.files import atomic_file
from jaxir.lm.masked import MaskedLMConfig, init_params
from jaxir.types import Params

__all__ = [
    "PretrainedMaskedLM",
    "export_masked_lm",
    "is_masked_lm",
    "load_masked_lm",
]

_LANDMARK = "embeddings.word_embeddings.weight"
_CLASSES = {
    "bert": "BertForMaskedLM",
    "roberta": "RobertaForMaskedLM",
    "distilbert": "DistilBertForMaskedLM",
}


class PretrainedMaskedLM(NamedTuple):
    """A masked language model as it comes from a checkpoint.

    Attributes:
      config: the model.
      params: its parameters, float32 arrays in host memory.
    """

    config: MaskedLMConfig
    params: Params


class _Head(NamedTuple):
    """How a family names what stands behind its encoder.

    Attributes:
      transform: the dense layer.
      norm: behind it.
      decoder: the last matrix.
      bias: the last bias.
      unused: regular expressions of names beside these.
    """

    transform: str
    norm: str
    decoder: str
    bias: str
    unused: tuple[str, ...]


_HEADS = {
    "bert": _Head(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
        "cls.predictions.bias",
        (r"cls\.predictions\.decoder\.bias", r"cls\.seq_relationship\..*"),
    ),
    "roberta": _Head(
        "lm_head.dense",
        "lm_head.layer_norm",
        "lm_head.decoder",
        "lm_head.bias",
        (r"lm_head\.decoder\.bias",),
    ),
    "distilbert": _Head(
        "vocab_transform",
        "vocab_layer_norm",
        "vocab_projector",
        "vocab_projector.bias",
        (),
    ),
}


def is_masked_lm(directory: Path) -> bool:
    """Whether a folder's ``config.json`` says that a head over the vocabulary is there.

    Args:
      directory: of Hugging Face's layout.
    """
    path = directory / "config.json"
    classes = read_json(path).get("architectures") if path.is_file() else None
    return any(name in _CLASSES.values() for name in classes or ())


def load_masked_lm(directory: Path) -> PretrainedMaskedLM:
    """A masked language model out of a folder, its head included.

    Args:
      directory: of Hugging Face's layout.

    Raises:
      InputError: another kind of model, weights that do not fit, with the whole
        difference, or a decoder that should be the word table and is not.
    """
    path = directory / "config.json"
    data = read_json(path)
    backbone = backbone_config(data, where=path)
    weights = {modern_name(name): x for name, x in read_weights(directory).items()}
    found = [name for name in weights if name.endswith(_LANDMARK)]
    if len(found) != 1:
        raise InputError(
            directory, f"{len(found)} arrays named …{_LANDMARK}", "one encoder"
        )
    head = _HEADS[backbone.family]
    decoder, table = f"{head.decoder}.weight", found[0]
    tied = bool(data.get("tie_word_embeddings", True))
    if tied and decoder in weights:
        if not np.array_equal(weights[decoder], weights[table]):
            raise InputError(
                directory, f"{decoder} differs from {table}",
                "one table under two names, for tie_word_embeddings is true",
                "set tie_word_embeddings to false in config.json if they are two",
            )  # fmt: skip
        del weights[decoder]
    if head.bias not in weights and f"{head.decoder}.bias" in weights:
        weights[head.bias] = weights[f"{head.decoder}.bias"]
    config = MaskedLMConfig(backbone, tied)
    rules, unused = _rules(config, table.removesuffix(_LANDMARK))
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    tree = apply_rules(weights, rules, shapes, where=directory, ignore=unused)
    params = jax.tree.map(lambda x: np.ascontiguousarray(x, np.float32), tree)
    return PretrainedMaskedLM(config, params)


def _rules(config: MaskedLMConfig, prefix: str) -> tuple[list[Rule], list[str]]:
    """The table of both parts, and regular expressions of names that nothing uses."""
    backbone, head = config.backbone, _HEADS[config.backbone.family]
    rules, _ = backbone_rules(backbone, inside=prefix, under="backbone/")
    rules += [
        Rule(f"{head.transform}.weight", "head/transform/kernel", TRANSPOSE),
        Rule(f"{head.transform}.bias", "head/transform/bias"),
        Rule(f"{head.norm}.weight", "head/norm/scale"),
        Rule(f"{head.norm}.bias", "head/norm/bias"),
        Rule(head.bias, "head/bias"),
    ]
    if not config.tied:
        rules.append(Rule(f"{head.decoder}.weight", "head/decoder/kernel", TRANSPOSE))
    unused = [r"embeddings\.(position|token_type)_ids"]
    unused += [] if backbone.pooler else [r"pooler\..*"]
    return rules, [re.escape(prefix) + name for name in unused] + list(head.unused)


def export_masked_lm(
    config: MaskedLMConfig,
    params: Params,
    directory: Path,
    *,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes ``config.json`` and ``model.safetensors`` for ``AutoModelForMaskedLM``.

    Args:
      config: the model.
      params: its parameters.
      directory: where to write; made if absent.
      extra: more keys of ``config.json``.

    Raises:
      InputError: parameters that are not such a model's.
    """
    family = config.backbone.family
    rules, _ = _rules(config, f"{family}.")
    host = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    weights = invert(host, rules, where=directory)
    head = _HEADS[family]
    if not config.tied:  # theirs has the bias twice, and then reads the second
        weights[f"{head.decoder}.bias"] = weights[head.bias].copy()
    save_weights(directory / "model.safetensors", weights)
    data = backbone_to_huggingface(config.backbone) | {
        "architectures": [_CLASSES[family]],
        "tie_word_embeddings": config.tied,
    }
    with atomic_file(directory / "config.json") as out:
        out.write(json.dumps(data | dict(extra or {}), indent=2) + "\n")
