"""RankT5 as a Hugging Face folder: a T5 for transformers, and what makes it rank.

EncDec is a ``T5ForConditionalGeneration``, whose logit of ``target_id`` at the first
step is the score.  Enc is a ``T5EncoderModel`` beside ``score_head.safetensors``
(``dense.weight [1, D]``, ``dense.bias [1]``): the score is ``weight @ pool(states) +
bias``.  What else our configuration says, such as template and pooling, stands in
``config.json`` under ``jaxir_reranker``, which transformers carries along unread.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxir.checkpoints.rules import TRANSPOSE, Rule, apply_rules, invert
from jaxir.checkpoints.t5_huggingface import export_t5, is_t5, load_t5
from jaxir.checkpoints.weights import read_json, read_weights, resolve, save_weights
from jaxir.errors import InputError
from jaxir.families import config_from_dict, config_to_dict
from jaxir.files import atomic_file
from jaxir.rank.model import RankT5Config
from jaxir.types import Params

__all__ = ["PretrainedRankT5", "export_rank_t5", "is_rank_t5", "load_rank_t5"]

_KEY = "jaxir_reranker"
_HEAD_FILE = "score_head.safetensors"
_HEAD_RULES = (
    Rule("dense.weight", "dense/kernel", TRANSPOSE),
    Rule("dense.bias", "dense/bias"),
)


class PretrainedRankT5(NamedTuple):
    """A RankT5 as it comes from a folder.

    Attributes:
      config: the reranker.
      params: its parameters, float32 arrays in host memory.
    """

    config: RankT5Config
    params: Params


def is_rank_t5(directory: Path) -> bool:
    """Whether a folder was written by :func:`export_rank_t5`."""
    return is_t5(directory) and _KEY in read_json(directory / "config.json")


def load_rank_t5(spec: str | os.PathLike) -> PretrainedRankT5:
    """What :func:`export_rank_t5` wrote, the same to the last bit.

    Args:
      spec: as ``weights.resolve`` takes it.

    Raises:
      InputError: settings that we do not know, or weights that do not fit.
    """
    directory = resolve(spec)
    path = directory / "config.json"
    backbone, params = load_t5(directory)
    settings = read_json(path).get(_KEY)
    if not isinstance(settings, dict):
        raise InputError(path, f"{_KEY} is no object", "a folder that jaxir wrote")
    whole = settings | {"backbone": config_to_dict(backbone)}
    config = config_from_dict("rank_t5", whole, where=path)
    if config.head == "enc":
        shapes = {"dense": {"kernel": (backbone.emb_dim, 1), "bias": (1,)}}
        file = directory / _HEAD_FILE
        tree = apply_rules(read_weights(file), _HEAD_RULES, shapes, where=file)
        kept = jax.tree.map(lambda x: np.ascontiguousarray(x, np.float32), tree)
        params = dict(params) | {"score_head": kept}
    return PretrainedRankT5(config, params)


def export_rank_t5(
    config: RankT5Config,
    params: Params,
    directory: str | os.PathLike,
    *,
    tokenizer: object = None,
) -> None:
    """Writes a RankT5 as this module describes.

    Args:
      config: the reranker.
      params: its parameters.
      directory: where to write; made if absent.
      tokenizer: its tokenizer (``save(directory)``), whose files are written as well.

    Raises:
      InputError: parameters that are not such a reranker's.
    """
    directory = Path(directory)
    tree = dict(params)
    head = tree.pop("score_head", None)
    export_t5(config.backbone, tree, directory, tokenizer=tokenizer)
    if head is not None:
        host = jax.tree.map(lambda x: np.asarray(x, np.float32), head)
        weights = invert(host, _HEAD_RULES, where=directory)
        save_weights(directory / _HEAD_FILE, weights)
    settings = config_to_dict(config)
    settings.pop("backbone")
    path = directory / "config.json"
    with atomic_file(path) as out:
        out.write(json.dumps(read_json(path) | {_KEY: settings}, indent=2) + "\n")
