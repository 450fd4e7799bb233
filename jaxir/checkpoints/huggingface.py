"""Hugging Face encoders in and out: BERT, RoBERTa and DistilBERT.

Reads the backbone under any prefix and under any head; writes what
``transformers.AutoModel`` reads.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxir.checkpoints.rules import TRANSPOSE, Rule, apply_rules, invert
from jaxir.checkpoints.weights import read_json, read_weights, resolve, save_weights
from jaxir.errors import InputError
from jaxir.files import atomic_file
from jaxir.nn.bert import BertConfig, init_params
from jaxir.types import Params

__all__ = [
    "Backbone",
    "backbone_config",
    "backbone_params",
    "backbone_to_huggingface",
    "backbone_weights",
    "export_backbone",
    "load_backbone",
    "modern_name",
    "write_tokenizer_config",
]

_NORM = (("weight", "scale"), ("bias", "bias"))


def _dense_rules(source: str, target: str) -> list[Rule]:
    return [
        Rule(f"{source}.weight", f"{target}/kernel", TRANSPOSE),
        Rule(f"{source}.bias", f"{target}/bias"),
    ]


def _norm_rules(source: str, target: str) -> list[Rule]:
    return [Rule(f"{source}.{a}", f"{target}/{b}") for a, b in _NORM]


_EMBEDDINGS = [
    Rule(f"embeddings.{name}_embeddings.weight", f"embeddings/{ours}/embedding")
    for name, ours in (
        ("word", "word"),
        ("position", "position"),
        ("token_type", "token_type"),
    )
] + _norm_rules("embeddings.LayerNorm", "embeddings/norm")

_BERT_LAYER = {
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "mlp/wi",
    "output.dense": "mlp/wo",
    "output.LayerNorm": "mlp_norm",
}

_DISTILBERT_LAYER = {
    "attention.q_lin": "attention/query",
    "attention.k_lin": "attention/key",
    "attention.v_lin": "attention/value",
    "attention.out_lin": "attention/out",
    "sa_layer_norm": "attention_norm",
    "ffn.lin1": "mlp/wi",
    "ffn.lin2": "mlp/wo",
    "output_layer_norm": "mlp_norm",
}


def _table(layers: str, names: Mapping[str, str]) -> list[Rule]:
    rules = [*_EMBEDDINGS, *_dense_rules("pooler.dense", "pooler")]
    for source, target in names.items():
        make = _norm_rules if target.endswith("_norm") else _dense_rules
        rules += make(f"{layers}.{{i}}.{source}", f"layer_{{i}}/{target}")
    return rules


_RULES = {
    "bert": _table("encoder.layer", _BERT_LAYER),
    "roberta": _table("encoder.layer", _BERT_LAYER),
    "distilbert": _table("transformer.layer", _DISTILBERT_LAYER),
}

# Heads of tasks other than ours, and tables that transformers computes anew.
_UNUSED = (
    r"cls\..*",
    r"lm_head\..*",
    r"(pre_)?classifier\..*",
    r"qa_outputs\..*",
    r"vocab_(transform|layer_norm|projector)\..*",
    r"embeddings\.(position|token_type)_ids",
)
_POOLER = r"pooler\..*"

_FAMILY_OF_TYPE = {
    "bert": "bert",
    "dpr": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "distilbert": "distilbert",
}

_BERT_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "activation": "hidden_act",
    "norm_eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "pad_id": "pad_token_id",
}
_DISTILBERT_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "max_positions": "max_position_embeddings",
    "activation": "activation",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "pad_id": "pad_token_id",
}
# What a config.json may leave out, as transformers fills it in.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"vocab_size": 50265, "pad_id": 1},
    "distilbert": {"num_layers": 6, "type_vocab_size": 0},
}
_CLASS_NAMES = {
    "bert": "BertModel",
    "roberta": "RobertaModel",
    "distilbert": "DistilBertModel",
}


class Backbone(NamedTuple):
    """An encoder as it comes from a checkpoint.

    Attributes:
      config: its shape.
      params: its parameters, float32 arrays in host memory.
    """

    config: BertConfig
    params: Params


def backbone_config(data: Mapping[str, Any], *, where: object) -> BertConfig:
    """A ``config.json`` of Hugging Face as our configuration.

    Args:
      data: the parsed file.
      where: its path, for errors.

    Raises:
      InputError: a model of another kind, or a variant that we do not compute.
    """
    kind = data.get("model_type")
    if kind not in _FAMILY_OF_TYPE:
        supported = "one of " + ", ".join(_FAMILY_OF_TYPE)
        raise InputError(where, f"model_type {kind!r}", supported)
    positions = data.get("position_embedding_type", "absolute")
    if positions != "absolute":
        found = f"position_embedding_type {positions!r}"
        raise InputError(where, found, "'absolute'")
    if data.get("is_decoder"):
        raise InputError(where, "is_decoder true", "an encoder")
    name = _FAMILY_OF_TYPE[kind]
    keys = _DISTILBERT_KEYS if name == "distilbert" else _BERT_KEYS
    fields = dict(_DEFAULTS[name])
    types = {field.name: field.type for field in dataclasses.fields(BertConfig)}
    for ours, theirs in keys.items():
        if data.get(theirs) is not None:
            fields[ours] = _number_or_name(where, theirs, data[theirs], types[ours])
    fields.setdefault("pad_id", 0)
    if name == "roberta":
        # RoBERTa counts positions from the one after padding's.
        fields["position_offset"] = fields["pad_id"] + 1
    return BertConfig(family=name, **fields)


def _number_or_name(where: object, key: str, value: Any, kind: Any) -> Any:
    """A value of the type that our field has; sizes are positive."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(where, f"{key} {value!r}", f"{kind.__name__}")
    if key.startswith(("num_", "n_")) and value < 1:
        raise InputError(where, f"{key} {value!r}", "1 or more")
    return value


def backbone_params(
    config: BertConfig, weights: Mapping[str, np.ndarray], *, where: object
) -> Params:
    """An encoder's parameters out of a checkpoint, whatever prefix and heads it has.

    Args:
      config: the encoder's shape.
      weights: arrays by their names.
      where: the file, for errors.

    Raises:
      InputError: there is no encoder, or names and shapes do not fit.
    """
    modern = {modern_name(name): array for name, array in weights.items()}
    landmark = "embeddings.word_embeddings.weight"
    found = [name for name in modern if name.endswith(landmark)]
    if len(found) != 1:
        raise InputError(where, f"{len(found)} arrays named …{landmark}", "one encoder")
    prefix = found[0].removesuffix(landmark)
    inner = {name.removeprefix(prefix): array for name, array in modern.items()}
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    ignore = _UNUSED if config.pooler else (*_UNUSED, _POOLER)
    tree = apply_rules(inner, _RULES[config.family], shapes, where=where, ignore=ignore)
    return jax.tree.map(lambda x: np.ascontiguousarray(x, dtype=np.float32), tree)


def backbone_rules(
    config: BertConfig, *, inside: str, under: str
) -> tuple[list[Rule], list[str]]:
    """The table of an encoder that is a part of a larger model.

    Args:
      config: the encoder's shape.
      inside: what their names begin with, as ``query_encoder.transformer.``.
      under: what our paths begin with, as ``query/backbone/``.

    Returns:
      Rules, and regular expressions of names of an encoder that nothing uses.
    """
    rules = [
        rule._replace(source=inside + rule.source, target=under + rule.target)
        for rule in _RULES[config.family]
    ]
    unused = _UNUSED if config.pooler else (*_UNUSED, _POOLER)
    return rules, [re.escape(inside) + pattern for pattern in unused]


def modern_name(name: str) -> str:
    """TensorFlow's names of norms, which bert-base-uncased still carries."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def load_backbone(spec: str | os.PathLike) -> Backbone:
    """An encoder from a Hugging Face folder or ``hf:ID``.

    Its pooler and any head are left behind.

    Args:
      spec: as ``weights.resolve`` takes it.

    Raises:
      InputError: another kind of model, or weights that do not fit.
    """
    directory = resolve(spec)
    path = directory / "config.json"
    config = backbone_config(read_json(path), where=path)
    weights = read_weights(directory)
    return Backbone(config, backbone_params(config, weights, where=directory))


def backbone_to_huggingface(config: BertConfig) -> dict[str, Any]:
    """The ``config.json`` from which ``AutoModel`` makes the same encoder."""
    keys = _DISTILBERT_KEYS if config.family == "distilbert" else _BERT_KEYS
    data = {theirs: getattr(config, ours) for ours, theirs in keys.items()}
    data |= {
        "architectures": [_CLASS_NAMES[config.family]],
        "model_type": config.family,
        "dtype": "float32",
    }
    if config.family != "distilbert":
        data["position_embedding_type"] = "absolute"
    return data


def backbone_weights(
    config: BertConfig, params: Params, *, where: object
) -> dict[str, np.ndarray]:
    """An encoder's parameters as ``AutoModel`` names them; the inverse of import.

    Args:
      config: the encoder's shape.
      params: its parameters.
      where: what is being written, for errors.

    Raises:
      InputError: parameters that are not such an encoder's.
    """
    host = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    return invert(host, _RULES[config.family], where=where)


def export_backbone(
    config: BertConfig, params: Params, directory: str | os.PathLike
) -> None:
    """Writes ``config.json`` and ``model.safetensors`` for ``AutoModel``.

    Args:
      config: the encoder's shape.
      params: its parameters.
      directory: where to write; made if absent.

    Raises:
      InputError: parameters that are not such an encoder's.
    """
    directory = Path(directory)
    weights = backbone_weights(config, params, where=directory)
    save_weights(directory / "model.safetensors", weights)
    with atomic_file(directory / "config.json") as out:
        out.write(json.dumps(backbone_to_huggingface(config), indent=2) + "\n")


def write_tokenizer_config(directory: str | os.PathLike, length: int) -> None:
    """Completes what a tokenizer's own files do not say to transformers.

    Args:
      directory: where ``tokenizer.json`` stands.
      length: the most tokens of a text.
    """
    path = Path(directory) / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    settings.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    settings["model_max_length"] = length
    with atomic_file(path) as out:
        out.write(json.dumps(settings, indent=2) + "\n")
