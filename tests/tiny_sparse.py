"""Random sparse encoders of a few thousand parameters over the tiny words."""

from pathlib import Path

import jax
import numpy as np
from tiny_rerankers import bert_tokenizer

from jaxir.checkpoints.model_dir import Model, model_from_parts
from jaxir.nn.bert import BertConfig
from jaxir.sparse.model import SparseConfig, init_params

__all__ = ["tiny_sparse"]


def tiny_sparse(folder: Path, seed: int = 0, **changes) -> Model:
    """A sparse encoder of one block of width 16, whose IDF differs from token to token.

    Args:
      folder: for the tokenizer.
      seed: of the parameters.
      changes: of the configuration.
    """
    tokenizer = bert_tokenizer(folder)
    backbone = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2,
        intermediate_size=32, max_positions=64,
    )  # fmt: skip
    special = tuple(int(token) for token in tokenizer.special_ids)
    defaults = {"special_ids": special, "query_length": 32, "doc_length": 32}
    config = SparseConfig(backbone, **(defaults | changes))
    # Larger than at the beginning of a training: texts differ clearly.
    params = jax.tree.map(lambda x: x * 3, init_params(config, jax.random.key(seed)))
    draw = np.random.default_rng(seed)
    idf = draw.uniform(0.5, 4, tokenizer.vocab_size).astype(np.float32)
    bias = draw.normal(-0.6, 0.6, tokenizer.vocab_size).astype(np.float32)
    head = params["head"] | {"bias": bias}
    params = params | {"idf": {"scale": idf}, "head": head}
    return model_from_parts("sparse", config, params, tokenizer)
