"""A training step of the dense bi-encoder against the same model and batch in PyTorch.

all-MiniLM-L6's sizes: in-batch contrast of 32 queries (32 tokens) with 32 documents
(128 tokens), AdamW, clipping; once without and once with dropout 0.1.  Whole steps:
forward, backward, update.
"""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np
from encoder import CONFIG, random_tokens, torch_model
from timing import alone, compare, versions

from jaxir.dense.model import DenseConfig
from jaxir.dense.task import make_task
from jaxir.train.optimizers import OptimizerConfig, make_optimizer
from jaxir.train.step import TrainState, make_train_step
from jaxir.types import RankBatch, TokenBatch

NAME = "train-step"
TEMPERATURE = 0.05


def _batch(rows: int, query_length: int, doc_length: int) -> RankBatch:
    doc = random_tokens(rows, doc_length)
    return RankBatch(
        query=random_tokens(rows, query_length),
        doc=TokenBatch(doc.ids[:, None], doc.mask[:, None]),
        labels=np.ones((rows, 1), np.float32),
        where=np.ones((rows, 1), bool),
        query_index=np.arange(rows, dtype=np.int32),
        doc_index=np.arange(rows, dtype=np.int32)[:, None],
    )


def _our_step(batch: RankBatch, dropout: float) -> Callable[[], None]:
    backbone = dataclasses.replace(CONFIG, dropout=dropout, attention_dropout=dropout)
    task = make_task(DenseConfig(backbone))
    optimizer = make_optimizer(OptimizerConfig(), total_steps=1000)
    step = make_train_step(task, optimizer)
    params = task.init(jax.random.key(0), batch)
    state = TrainState(
        np.int32(0),
        params,
        optimizer.init(params),
        jax.random.key_data(jax.random.key(1)),
    )
    batch = jax.device_put(batch)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return run


def _torch_step(batch: RankBatch, dropout: float) -> Callable[[], None]:
    import torch

    model = torch_model(dropout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01)

    def vectors(tokens: TokenBatch) -> torch.Tensor:
        width = tokens.ids.shape[-1]
        ids = torch.tensor(tokens.ids.reshape(-1, width), dtype=torch.long)
        mask = torch.tensor(tokens.mask.reshape(-1, width).astype(np.int64))
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None].float()
        mean = (states * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        scores = vectors(batch.query) @ vectors(batch.doc).T / TEMPERATURE
        target = torch.arange(len(scores))
        torch.nn.functional.cross_entropy(scores, target).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return run


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields a case without and one with dropout."""
    rows, doc_length = (8, 64) if quick else (32, 128)
    batch = _batch(rows, 32, doc_length)
    have_torch = all(map(importlib.util.find_spec, ("torch", "transformers")))
    if not have_torch:
        print("train-step: PyTorch is not installed, no peer", file=sys.stderr)
    for dropout in (0.0, 0.1):
        ours = _our_step(batch, dropout)
        if have_torch:
            peer = _torch_step(batch, dropout)
            times = compare(ours, peer, pairs=3 if quick else 9)
        else:
            times = alone(ours)
        label = f"{rows} queries x 32, docs x {doc_length}, dropout {dropout}"
        case = {"name": NAME, "case": label, "peer": "torch"}
        yield {**case, **times, "versions": versions("torch", "transformers")}
