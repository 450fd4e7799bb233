"""The encoder alone, forward and with its gradient, against PyTorch's ``BertModel``.

all-MiniLM-L6's sizes with random weights, float32, the same tokens; texts of a batch
are between half as long and as long as the batch.  Both use all processors.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import alone, compare, versions

from jaxir.mesh import cpu_cores
from jaxir.nn.bert import BertConfig, BertEncoder, init_params
from jaxir.types import TokenBatch

NAME = "encoder"

CONFIG = BertConfig(hidden_size=384, num_layers=6, num_heads=12, intermediate_size=1536)
SHAPES = ((32, 128), (8, 256), (64, 32), (32, 256))


def random_tokens(rows: int, length: int) -> TokenBatch:
    """Tokens of texts of half to full length."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(length // 2, length + 1, rows)
    mask = np.arange(length)[None, :] < lengths[:, None]
    ids = np.where(mask, rng.integers(1000, 30_000, mask.shape), 0)
    return TokenBatch(ids.astype(np.int32), mask)


def torch_model(dropout: float = 0.0) -> Any:
    """The same architecture in PyTorch, with all processors."""
    import torch
    import transformers

    torch.set_num_threads(cpu_cores())
    return transformers.BertModel(
        transformers.BertConfig(
            hidden_size=CONFIG.hidden_size,
            num_hidden_layers=CONFIG.num_layers,
            num_attention_heads=CONFIG.num_heads,
            intermediate_size=CONFIG.intermediate_size,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        ),
        add_pooling_layer=False,
    )


def _torch_pair(tokens: TokenBatch) -> tuple[Callable, Callable]:
    """Forward, and forward with backward, in PyTorch."""
    import torch

    model = torch_model().eval()
    inputs = {
        "input_ids": torch.tensor(tokens.ids, dtype=torch.long),
        "attention_mask": torch.tensor(tokens.mask.astype(np.int64)),
    }

    def forward() -> None:
        with torch.inference_mode():
            model(**inputs)

    def both() -> None:
        model.zero_grad(set_to_none=True)
        model(**inputs).last_hidden_state.square().mean().backward()

    return forward, both


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields two cases for each shape: ``forward`` and ``forward+backward``."""
    params = init_params(CONFIG, jax.random.key(0))

    @jax.jit
    def states(params, tokens):
        return BertEncoder(CONFIG).apply({"params": params}, tokens).states

    gradient = jax.jit(
        jax.grad(lambda params, tokens: jnp.mean(jnp.square(states(params, tokens))))
    )
    have_torch = all(map(importlib.util.find_spec, ("torch", "transformers")))
    if not have_torch:
        print("encoder: PyTorch is not installed, no peer", file=sys.stderr)
    for rows, length in SHAPES[2:3] if quick else SHAPES:
        host = random_tokens(rows, length)
        tokens = jax.device_put(host)
        peers = _torch_pair(host) if have_torch else (None, None)
        kinds = (("forward", states), ("forward+backward", gradient))
        for (kind, function), peer in zip(kinds, peers, strict=True):

            def ours(function=function, tokens=tokens) -> None:
                jax.block_until_ready(function(params, tokens))

            times = (
                compare(ours, peer, pairs=3 if quick else 9) if peer else alone(ours)
            )
            case = {"name": NAME, "case": f"{kind} {rows}x{length}", "peer": "torch"}
            yield {**case, **times, "versions": versions("torch", "transformers")}
