"""``config.json`` of the released Hypencoders: the q-net, the encoders, and back.

Options that a file leaves out have the released code's defaults; what only our
configuration says stands under a key of ours, which that code carries along unread.

The file does not say how large its BERT is, only its name.  The BERT's own
``config.json`` is taken from ``encoder/`` in the folder, from that name as a folder, or
from Hugging Face's cache; else its sizes are its tensors', and its heads 64 wide.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.checkpoints.huggingface import backbone_config
from jaxir.checkpoints.weights import read_json
from jaxir.errors import InputError
from jaxir.families import config_from_dict, config_to_dict
from jaxir.hyper.model import HypencoderConfig
from jaxir.hyper.qnet import QNetSpec
from jaxir.nn.bert import BertConfig
from jaxir.progress import say

__all__ = [
    "ENCODER_FOLDER",
    "check_expressible",
    "config_from_released",
    "config_to_released",
    "is_bert_base",
]

ENCODER_FOLDER = "encoder"
"""The folder inside a model's with the ``config.json`` of its encoder."""

_BERT_BASE = "google-bert/bert-base-uncased"
_KEY = "jaxir_hypencoder"
# What our configuration says and theirs has no place for.
_OURS = ("backbone", "query_length", "doc_length", "query_template", "doc_template")
_LENGTHS = {"query_length": 64, "doc_length": 512}  # of the released evaluation
_NAME = "model_name_or_path"
_POOLINGS = ("cls", "mean")
_NORM_EPS = 1e-5
# Widths of Google's BERTs, whose heads are 64 wide; of 384 there are others.
_WIDTHS = (128, 256, 512, 768, 1024)

# Of converter_kwargs: our name, type and default.
_OPTIONS: dict[str, tuple[str, type, Any]] = {
    "activation_type": ("activation", str, "relu"),
    "do_layer_norm": ("layer_norm", bool, True),
    "layer_norm_before_residual": ("norm_before_residual", bool, True),
    "do_residual": ("residual", bool, True),
    "do_residual_on_last": ("residual_on_last", bool, False),
}
_DROPOUT = ("do_dropout", "dropout_prob")  # of q-nets in training

# What the released code cannot compute otherwise.
_FIXED: dict[str, Any] = {
    "similarity": "dot",
    "projection_size": None,
    "attention_scale": "released",
    "warm_start": False,
    "qnet.gated": False,
    "qnet.num_vectors": 1,
    "qnet.norm_eps": _NORM_EPS,
}


def config_from_released(
    directory: Path, encoders: Mapping[str, Mapping[str, np.ndarray]]
) -> HypencoderConfig:
    """The configuration of the folder of a released model, or of one of that kind.

    Lengths that nothing states are those of the authors' evaluation, 64 and 512.

    Args:
      directory: the folder.
      encoders: the arrays of each tower by their names in it: ``shared``, or ``query``
        and ``doc``.

    Raises:
      InputError: options that the released code does not take, or an encoder whose
        shape nothing tells.
    """
    path = directory / "config.json"
    data = read_json(path)
    query = _object(data, "query_encoder_kwargs", path)
    doc = _object(data, "passage_encoder_kwargs", path)
    qnet = _read_qnet(_object(query, "converter_kwargs", path), path)
    pooling = doc.get("pooling_type", "cls")
    if pooling not in _POOLINGS:
        raise InputError(path, f"pooling_type {pooling!r}", "'cls' or 'mean'")
    if pooling == "mean":
        say(f"{path}: a mean of real tokens, where the released code's counts padding")
    fields = _object(data, _KEY, path) if _KEY in data else {}
    if "backbone" not in fields:
        names = {"query": query.get(_NAME), "doc": doc.get(_NAME)}
        found = [
            _shape(directory, str(names.get(side) or names["query"]), weights)
            for side, weights in encoders.items()
        ]
        if found[0] != found[-1]:
            raise InputError(path, "two encoders of different shapes", "one shape")
        longest = found[0].max_length
        lengths = {name: min(most, longest) for name, most in _LENGTHS.items()}
        fields = {"backbone": config_to_dict(found[0])} | lengths | fields
    fields |= {
        "qnet": config_to_dict(qnet),
        "pooling": pooling,
        "towers": "shared" if "shared" in encoders else "separate",
    }
    return config_from_dict("hypencoder", fields, where=path)


def _object(data: Mapping[str, Any], key: str, where: Path) -> dict[str, Any]:
    if not isinstance(data.get(key), dict):
        found = f"{key} {data[key]!r}" if key in data else f"no {key}"
        raise InputError(where, found, "an object, as a Hypencoder has it")
    return dict(data[key])


def _read_qnet(options: dict[str, Any], where: Path) -> QNetSpec:
    """The q-net of ``converter_kwargs``, by the released code's rules and defaults."""
    known = ("vector_dimensions", *_OPTIONS, *_DROPOUT)
    unknown = sorted(set(options) - set(known))
    if unknown:
        found = f"unknown {', '.join(unknown)} in converter_kwargs"
        raise InputError(where, found, "keys among " + ", ".join(known))
    widths: Any = options.get("vector_dimensions")
    whole = isinstance(widths, list) and all(type(x) is int and x > 0 for x in widths)
    if not whole or len(widths) < 3 or widths[-1] != 1:
        found = f"vector_dimensions {widths!r}"
        raise InputError(where, found, "at least three widths, the last of them 1")
    if options.get("do_dropout"):
        say(f"{where}: do_dropout is left out; our q-nets learn without")
    fields: dict[str, Any] = {}
    for name, (ours, kind, default) in _OPTIONS.items():
        value = options.get(name, default)
        if name == "do_residual_on_last" and value is None:
            value = fields["residual"]
        if not isinstance(value, kind):
            raise InputError(where, f"{name} {value!r}", f"a {kind.__name__}")
        fields[ours] = value
    spec = QNetSpec(widths[0], tuple(widths[1:-1]), norm_eps=_NORM_EPS, **fields)
    _check_residuals(spec, where)
    return spec


def _check_residuals(spec: QNetSpec, where: Path) -> None:
    """The released code adds what a block reads whether or not the widths agree."""
    if spec.residual_on_last and not spec.residual:
        found = "residual_on_last without residual"
        raise InputError(where, found, "a residual at the other blocks, or at none")
    added = spec.depth if spec.residual_on_last else spec.depth - 1
    if spec.residual and not all(spec.residuals[:added]):
        found = f"residuals between blocks of widths {list(spec.widths)}"
        raise InputError(where, found, "equal widths, or no residuals")


def _shape(directory: Path, name: str, weights: Mapping[str, np.ndarray]) -> BertConfig:
    """An encoder's configuration: of its own file, or as far as its tensors tell."""
    for path in (directory / ENCODER_FOLDER / "config.json", _at_hand(name)):
        if path is not None and path.is_file():
            return backbone_config(read_json(path), where=path)
    shapes = [
        getattr(weights.get(key), "shape", ())
        for key in (
            "embeddings.word_embeddings.weight",
            "embeddings.position_embeddings.weight",
            "embeddings.token_type_embeddings.weight",
            "encoder.layer.0.intermediate.dense.weight",
        )
    ]
    if all(len(shape) == 2 for shape in shapes):
        (words, width), (positions, _), (types, _), (inner, _) = shapes
        found = (re.match(r"encoder\.layer\.(\d+)\.", key) for key in weights)
        layers = len({match[1] for match in found if match})
        # RoBERTa has one type, and counts its positions from another row.
        if types == 2 and width in _WIDTHS:
            say(
                f"{directory}: the config.json of {name!r} is not at hand; its tensors "
                f"are a BERT's of {layers} layers, taken to have {width // 64} heads"
            )
            return BertConfig(
                words, width, layers, width // 64, inner, positions, types
            )
    raise InputError(
        directory,
        f"its tensors do not tell the shape of {name!r}",
        f"that model's config.json in {directory / ENCODER_FOLDER}",
        "copy it there",
    )


def _at_hand(name: str) -> Path | None:
    """The ``config.json`` of a model that is a folder or in Hugging Face's cache."""
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser() / "config.json"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # a folder on its author's machine
        return None
    return Path(found) if isinstance(found, str) else None


def check_expressible(config: HypencoderConfig, where: Path) -> None:
    """Checks that the released code can compute a Hypencoder.

    Args:
      config: the Hypencoder.
      where: what is being written, for the error.

    Raises:
      InputError: it cannot.
    """
    fields = dataclasses.asdict(config)
    fields |= {f"qnet.{name}": value for name, value in fields["qnet"].items()}
    remedy = "keep it as a jaxir directory"
    for name, value in _FIXED.items():
        if fields[name] != value:
            expected = f"{value!r}, which the released code computes"
            raise InputError(where, f"{name}={fields[name]!r}", expected, remedy)
    if config.pooling not in _POOLINGS:
        expected = "'cls' or 'mean', which the released code computes"
        raise InputError(where, f"pooling={config.pooling!r}", expected, remedy)
    _check_residuals(config.qnet, where)
    if config.pooling == "mean":
        say(f"{where}: the released code's mean counts padding, where ours does not")
    if {config.query_template, config.doc_template} != {"{text}"}:
        say(f"{where}: the released code knows no templates; write texts by them")


def is_bert_base(config: BertConfig) -> bool:
    """Whether an encoder computes what BERT-base of this shape does.

    Example::

      >>> is_bert_base(BertConfig(dropout=0.0)), is_bert_base(BertConfig(num_layers=6))
      (True, False)
    """
    same = ("dropout", "attention_dropout", "pooler", "dtype", "remat")
    other = {name: getattr(config, name) for name in same}
    return config == dataclasses.replace(BertConfig(), **other)


def config_to_released(config: HypencoderConfig, encoder: str) -> dict[str, Any]:
    """The ``config.json`` from which the released code makes the same model.

    Args:
      config: one that passes :func:`check_expressible`.
      encoder: the folder with its encoder, for another than BERT-base.
    """
    name = _BERT_BASE if is_bert_base(config.backbone) else encoder
    qnet = {theirs: getattr(config.qnet, o) for theirs, (o, _, _) in _OPTIONS.items()}
    ours = config_to_dict(config)
    return {
        "architectures": ["HypencoderDualEncoder"],
        "query_encoder_kwargs": {
            _NAME: name,
            "freeze_transformer": False,
            "embedding_representation": None,
            "base_encoder_output_dim": config.backbone.hidden_size,
            "converter_kwargs": {"vector_dimensions": [*config.qnet.widths, 1]} | qnet,
        },
        "passage_encoder_kwargs": {
            _NAME: name,
            "freeze_transformer": False,
            "pooling_type": config.pooling,
        },
        # Of their training; a file without them cannot be read by the released code.
        "loss_type": ["margin_mse", "cross_entropy"],
        "loss_kwargs": [
            {},
            {"use_in_batch_negatives": True, "only_use_first_item": True},
        ],
        "shared_encoder": config.towers == "shared",
        "dtype": "float32",
        _KEY: {name: ours[name] for name in _OURS},
    }
