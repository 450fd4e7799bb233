"""A BERT with a head over its vocabulary, which more than one family is.

A configuration says by its fields ``backbone`` and ``tied`` what it is; parameters are
``{"backbone": BertEncoder's, "head": MaskedLanguageModelHead's}``.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxir.errors import InputError
from jaxir.nn import bert
from jaxir.nn.heads import MaskedLanguageModelHead
from jaxir.types import Params

__all__ = ["adapt_masked_lm", "init_masked_lm", "vocabulary_head", "with_fresh_head"]


def vocabulary_head(config: Any) -> Any:
    """The head of a configuration, a ``MaskedLanguageModelHead``.

    Args:
      config: has the fields that this module's head names.
    """
    backbone = config.backbone
    # linen's apply promises less than it gives, hence Any
    return MaskedLanguageModelHead(
        backbone.vocab_size, backbone.activation, backbone.norm_eps, backbone.dtype
    )


def init_masked_lm(config: Any, rng: jax.Array) -> Params:
    """Fresh parameters of encoder and head.

    Args:
      config: has the fields that this module's head names.
      rng: a random key.

    Example::

      >>> import types
      >>> tiny = bert.BertConfig(9, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = types.SimpleNamespace(backbone=tiny, tied=True)
      >>> sorted(init_masked_lm(config, jax.random.key(0)))
      ['backbone', 'head']
    """
    backbone_rng, head_rng = jax.random.split(rng)
    backbone = bert.init_params(config.backbone, backbone_rng)
    return with_fresh_head(config, backbone, head_rng)


def with_fresh_head(config: Any, backbone_params: Params, rng: jax.Array) -> Params:
    """An encoder's parameters with a fresh head.

    The head's last matrix is the word table: itself when tied, else a copy to begin
    with.

    Args:
      config: has the fields that this module's head names.
      backbone_params: of a ``BertEncoder``, such as a sentence encoder's.
      rng: a random key.
    """
    table = backbone_params["embeddings"]["word"]["embedding"]
    states = jnp.zeros((1, config.backbone.hidden_size))
    head = vocabulary_head(config).init(rng, states, jnp.zeros_like(table))["params"]
    if not config.tied:
        head = {**head, "decoder": {"kernel": jnp.transpose(table)}}
    return {"backbone": backbone_params, "head": head}


def adapt_masked_lm(config: Any, params: Params, target: Any) -> Params:
    """Encoder and head of another configuration that starts from these.

    Args:
      config: of ``params``.
      params: to begin from; what they have beside encoder and head is left out.
      target: sizes as in ``config``; an untied head begins as the word table.

    Raises:
      InputError: the parameters would have other shapes.
    """
    shapes = [
        jax.tree.map(
            lambda leaf: leaf.shape,
            jax.eval_shape(lambda c=c: bert.init_params(c.backbone, jax.random.key(0))),
        )
        for c in (config, target)
    ]
    if shapes[0] != shapes[1]:
        raise InputError(
            "backbone", "sizes that the parameters do not have", "those of the model"
        )
    head = {name: part for name, part in params["head"].items() if name != "decoder"}
    if not target.tied:
        table = jnp.asarray(params["backbone"]["embeddings"]["word"]["embedding"])
        fresh = {"kernel": jnp.transpose(table)}
        head["decoder"] = params["head"].get("decoder", fresh)
    return {"backbone": params["backbone"], "head": head}
