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
    folder: Path, seed: int = 0, *, vectors: int = 1, **changes
) -> Model:
    """A Hypencoder of two blocks of width 16; its q-nets differ clearly."""
    tokenizer = bert_tokenizer(folder)
    backbone = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2,
        intermediate_size=32, max_positions=64,
    )  # fmt: skip
    qnet = QNetSpec(16, (16, 16), num_vectors=vectors)
    defaults = {"query_length": 32, "doc_length": 32}
    config = HypencoderConfig(backbone, qnet, **(defaults | changes))
    # Texts of random parameters lie close together: larger ones set them apart.
    params = jax.tree.map(lambda x: x * 3, init_params(config, jax.random.key(seed)))
    # At first all q-nets are nearly the same base network, by the paper's design.
    head = jax.tree_util.tree_map_with_path(_spread, params["head"])
    return model_from_parts("hypencoder", config, {**params, "head": head}, tokenizer)


def _spread(path, leaf):
    names = [str(getattr(key, "key", key)) for key in path]
    projected = "projection" in names and names[-1] == "kernel"
    if not projected:
        return leaf
    return leaf + 0.3 * jax.random.normal(jax.random.key(len(names)), leaf.shape)
