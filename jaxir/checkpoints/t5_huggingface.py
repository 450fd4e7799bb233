"""Hugging Face's T5 in and out: ``T5ForConditionalGeneration`` and ``T5EncoderModel``.

T5 1.0, 1.1 and what shares their architecture (Flan-T5, mT5).  The names differ from
ours and kernels are transposed; the numbers are the same to the last bit.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxir.checkpoints.rules import TRANSPOSE, Rule, apply_rules, invert
from jaxir.checkpoints.t5x import PretrainedT5, one_by_one
from jaxir.checkpoints.weights import read_json, read_weights, resolve, save_weights
from jaxir.errors import InputError
from jaxir.files import atomic_file
from jaxir.nn.t5 import T5Config, init_encoder_params, init_params
from jaxir.types import Params

__all__ = [
    "config_from_huggingface",
    "config_to_huggingface",
    "export_t5",
    "is_t5",
    "load_t5",
]

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}
# For each stack: the blocks of a layer in Hugging Face's order, their norms and names.
_BLOCKS = {
    "encoder": (
        ("SelfAttention", "pre_attention_layer_norm", "attention"),
        ("DenseReluDense", "pre_mlp_layer_norm", "mlp"),
    ),
    "decoder": (
        ("SelfAttention", "pre_self_attention_layer_norm", "self_attention"),
        (
            "EncDecAttention",
            "pre_cross_attention_layer_norm",
            "encoder_decoder_attention",
        ),
        ("DenseReluDense", "pre_mlp_layer_norm", "mlp"),
    ),
}


def _stack_rules(stack: str) -> list[Rule]:
    first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    rules = [
        Rule(first, f"{stack}/relpos_bias/rel_embedding", TRANSPOSE),
        Rule(f"{stack}.final_layer_norm.weight", f"{stack}/{stack}_norm/scale"),
    ]
    for number, (block, norm, name) in enumerate(_BLOCKS[stack]):
        theirs, ours = f"{stack}.block.{{i}}.layer.{number}", f"{stack}/layers_{{i}}"
        rules.append(Rule(f"{theirs}.layer_norm.weight", f"{ours}/{norm}/scale"))
        kernels = _ATTENTION
        if block == "DenseReluDense":
            kernels = {kernel: kernel for kernel in ("wi", "wi_0", "wi_1", "wo")}
        for source, target in kernels.items():
            kernel = Rule(
                f"{theirs}.{block}.{source}.weight",
                f"{ours}/{name}/{target}/kernel",
                TRANSPOSE,
            )
            rules.append(kernel)
    return rules


_RULES = [
    Rule("shared.weight", "token_embedder/embedding"),
    Rule("lm_head.weight", "decoder/logits_dense/kernel", TRANSPOSE),
    *_stack_rules("encoder"),
    *_stack_rules("decoder"),
]

_SHARED = "shared.weight"
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_HEAD = "lm_head.weight"
# T5's first conversions carry a table that no code has ever read.
_UNUSED = (
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\..*",
)
_DECODER = (r"decoder\..*", r"lm_head\..*")

_TYPES = ("t5", "mt5")
_KEYS = {
    "vocab_size": "vocab_size",
    "emb_dim": "d_model",
    "num_heads": "num_heads",
    "head_dim": "d_kv",
    "mlp_dim": "d_ff",
    "num_encoder_layers": "num_layers",
    "num_decoder_layers": "num_decoder_layers",
    "dropout_rate": "dropout_rate",
    "relpos_buckets": "relative_attention_num_buckets",
    "relpos_max_distance": "relative_attention_max_distance",
    "norm_eps": "layer_norm_epsilon",
    "pad_id": "pad_token_id",
}
# What a config.json may leave out, as transformers fills it in: T5-small's.
_DEFAULTS: dict[str, Any] = {
    "emb_dim": 512,
    "num_heads": 8,
    "mlp_dim": 2048,
    "num_encoder_layers": 6,
}
# In Hugging Face's names "gated-gelu" is the tanh form, and a bare "gelu" is not.
_PROJECTIONS: dict[str, tuple[str, ...]] = {
    "relu": ("relu",),
    "gelu_new": ("gelu",),
    "silu": ("silu",),
    "gated-gelu": ("gelu", "linear"),
    "gated-relu": ("relu", "linear"),
    "gated-silu": ("silu", "linear"),
}


def config_from_huggingface(
    data: Mapping[str, Any], *, where: object = "config.json"
) -> T5Config:
    """A ``config.json`` of a T5 as our configuration.

    ``logits_via_embedding`` is what ``tie_word_embeddings`` said before transformers 5
    and ``scale_decoder_outputs`` since: whether the logits are those of T5 1.0.

    Args:
      data: the parsed file.
      where: its path, for errors.

    Raises:
      InputError: a model of another kind, or a variant that we do not compute.

    Example::

      >>> data = {"model_type": "t5", "d_model": 64, "feed_forward_proj": "gated-gelu"}
      >>> config_from_huggingface(data).mlp_activations
      ('gelu', 'linear')
    """
    if data.get("model_type") not in _TYPES:
        found = f"model_type {data.get('model_type')!r}"
        raise InputError(where, found, "one of " + ", ".join(_TYPES))
    mt5 = data["model_type"] == "mt5"
    projection = data.get("feed_forward_proj", "gated-gelu" if mt5 else "relu")
    if projection not in _PROJECTIONS:
        expected = "one of " + ", ".join(_PROJECTIONS)
        raise InputError(where, f"feed_forward_proj {projection!r}", expected)
    fields = dict(_DEFAULTS)
    for ours, theirs in _KEYS.items():
        if data.get(theirs) is not None:
            fields[ours] = _number(where, theirs, data[theirs])
    fields.setdefault("num_decoder_layers", fields["num_encoder_layers"])
    tied = data.get("tie_word_embeddings", not mt5) is not False
    return T5Config(
        mlp_activations=_PROJECTIONS[projection],
        logits_via_embedding=bool(data.get("scale_decoder_outputs", tied)),
        **fields,
    )


def _number(where: object, key: str, value: Any) -> float | int:
    fraction = key in ("dropout_rate", "layer_norm_epsilon")
    kinds = (int, float) if fraction else (int,)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise InputError(where, f"{key} {value!r}", "a number" if fraction else "int")
    return float(value) if fraction else int(value)


def config_to_huggingface(config: T5Config, *, encoder_only: bool) -> dict[str, Any]:
    """The ``config.json`` from which transformers makes the same model.

    Args:
      config: a T5.
      encoder_only: whether it is for ``T5EncoderModel``.

    Raises:
      InputError: a feed-forward layer that Hugging Face's T5 does not have.
    """
    ours = tuple("silu" if x == "swish" else x for x in config.mlp_activations)
    names = {activations: name for name, activations in _PROJECTIONS.items()}
    if ours not in names:
        expected = "one of " + ", ".join(map(str, names))
        raise InputError("mlp_activations", str(config.mlp_activations), expected)
    name = "T5EncoderModel" if encoder_only else "T5ForConditionalGeneration"
    return {theirs: getattr(config, key) for key, theirs in _KEYS.items()} | {
        "architectures": [name],
        "decoder_start_token_id": config.pad_id,
        "dtype": "float32",
        "eos_token_id": 1,
        "feed_forward_proj": names[ours],
        "is_encoder_decoder": not encoder_only,
        "model_type": "t5",
        "tie_word_embeddings": config.logits_via_embedding,
        "use_cache": not encoder_only,
    }


def is_t5(directory: Path) -> bool:
    """Whether a folder holds a T5 of Hugging Face's."""
    path = directory / "config.json"
    return path.is_file() and read_json(path).get("model_type") in _TYPES


def load_t5(spec: str | os.PathLike) -> PretrainedT5:
    """A T5 from a Hugging Face folder or ``hf:ID``.

    ``model.safetensors`` or ``pytorch_model.bin``, whole or in shards.  Copies of the
    token table under other names, which older files carry, must be equal to it.

    Args:
      spec: as ``weights.resolve`` takes it.

    Returns:
      Configuration and parameters; of a ``T5EncoderModel``, those of the encoder.

    Raises:
      InputError: another kind of model, a variant that we do not compute, or weights
        that do not fit, with the whole difference.
    """
    directory = resolve(spec)
    path = directory / "config.json"
    data = read_json(path)
    config = config_from_huggingface(data, where=path)
    # What transformers 5 says of a head that is the table, but does not scale.
    tied = data.get("scale_decoder_outputs") is False
    weights = _one_table(read_weights(directory), config, tied)
    encoder_only = _is_encoder(data, weights)
    if not encoder_only:
        _check_start(data, config, path)
    init = init_encoder_params if encoder_only else init_params
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    ignore = (*_UNUSED, *(_DECODER if encoder_only else ()))
    tree = apply_rules(weights, _RULES, shapes, where=directory, ignore=ignore)
    kept = jax.tree.map(lambda x: np.ascontiguousarray(x, np.float32), tree)
    return PretrainedT5(config, kept)


def _is_encoder(data: Mapping[str, Any], weights: Mapping[str, Any]) -> bool:
    classes = data.get("architectures")
    if classes:
        return "T5EncoderModel" in classes or "MT5EncoderModel" in classes
    return not any(name.startswith("decoder.") for name in weights)


def _check_start(data: Mapping[str, Any], config: T5Config, path: Path) -> None:
    """The decoder begins with padding, as every T5's and mT5's does."""
    start = data.get("decoder_start_token_id")
    if start is not None and start != config.pad_id:
        raise InputError(
            path, f"decoder_start_token_id {start!r}, a variant that is not computed",
            f"pad_token_id, {config.pad_id}",
        )  # fmt: skip


def _one_table(
    weights: Mapping[str, np.ndarray], config: T5Config, tied: bool
) -> dict[str, np.ndarray]:
    """Weights with ``shared.weight`` and without its copies; what differs stays.

    ``tied`` makes a head of T5 1.1 that is absent another copy.
    """
    copies = (*_COPIES, _HEAD) if config.logits_via_embedding else _COPIES
    table = next((weights[n] for n in (_SHARED, *copies) if n in weights), None)
    if table is None:
        return dict(weights)
    kept = {
        name: array
        for name, array in weights.items()
        if name not in copies or not np.array_equal(array, table)
    }
    kept[_SHARED] = table
    if tied and _HEAD not in kept:
        kept[_HEAD] = table
    return kept


def export_t5(
    config: T5Config,
    params: Params,
    directory: str | os.PathLike,
    *,
    tokenizer: Any = None,
) -> None:
    """Writes ``config.json`` and ``model.safetensors`` for transformers.

    ``shared.weight`` always stands in the file: without it transformers 5 loads a
    wrong table.

    Args:
      config: a T5's.
      params: its parameters; without ``decoder`` they become a ``T5EncoderModel``.
      directory: where to write; made if absent.
      tokenizer: its tokenizer (``save(directory)``), whose files are written as well.

    Raises:
      InputError: parameters that are not such a T5's, or a feed-forward layer that
        Hugging Face's does not have.
    """
    directory = Path(directory)
    data = config_to_huggingface(config, encoder_only="decoder" not in params)
    host = jax.tree.map(lambda x: np.asarray(x, np.float32), one_by_one(params))
    save_weights(directory / "model.safetensors", invert(host, _RULES, where=directory))
    if tokenizer is not None:
        tokenizer.save(directory)
    with atomic_file(directory / "config.json") as out:
        out.write(json.dumps(data, indent=2) + "\n")
