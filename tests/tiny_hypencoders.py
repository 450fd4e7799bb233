"""Random Hypencoders of a few thousand parameters over the tiny collection's words."""

from pathlib import Path

import jax
from tiny_rerankers import bert_tokenizer

from jaxir.checkpoints.model_dir import Model, model_from_parts
from jaxir.hyper.model import HypencoderConfig, init_params
from jaxir.hyper.qnet import QNetSpec
from jaxir.nn.bert import BertConfig

__all__ = ["tiny_hypencoder"]


def tiny_hypencoder(
    folder: Path, seed: int = 0, *, vectors: int = 1, spread: bool = True, **changes
) -> Model:
    """A Hypencoder of two blocks of width 16.

    Args:
      folder: for the tokenizer.
      seed: of the parameters.
      vectors: of a document.
      spread: whether its q-nets and documents differ clearly; otherwise they are as
        training begins with them.
      changes: of the configuration.
    """
    tokenizer = bert_tokenizer(folder)
    backbone = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2,
        intermediate_size=32, max_positions=64,
    )  # fmt: skip
    warm = changes.get("warm_start", False)
    qnet = QNetSpec(
        16, (16, 16), num_vectors=vectors, gated=warm, residual_on_last=warm
    )
    defaults = {"query_length": 32, "doc_length": 32}
    config = HypencoderConfig(backbone, qnet, **(defaults | changes))
    params = init_params(config, jax.random.key(seed))
    if spread:
        # Texts of random parameters lie close together, and by the paper's design all
        # q-nets are nearly the same base network at first.
        params = jax.tree.map(lambda x: x * 3, params)
        params["head"] = jax.tree_util.tree_map_with_path(_spread, params["head"])
    return model_from_parts("hypencoder", config, params, tokenizer)


def _spread(path, leaf):
    names = [str(getattr(key, "key", key)) for key in path]
    projected = "projection" in names and names[-1] == "kernel"
    if not projected:
        return leaf
    return leaf + 0.3 * jax.random.normal(jax.random.key(len(names)), leaf.shape)
