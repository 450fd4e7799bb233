"""A training step of RankT5 over lists of 36 documents.

Against the same encoder, loss and optimizer in PyTorch (float32, all processors):
T5-small's sizes, softmax over each list, AdamW with clipping; whole steps: forward,
backward, update.  On an accelerator T5-base in bfloat16, EncDec, without a peer, with
``fraction_of_peak``.  The memory of larger models is that of ``rank-memory``.
"""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np
from encoder import random_tokens
from matmul import fraction_of_peak
from rank_score import backbone, encoder_flops, torch_encoder
from timing import alone, compare, versions

from jaxir.mesh import make_mesh, put_batch
from jaxir.rank.model import RankT5Config
from jaxir.rank.task import RankLoss, make_task
from jaxir.train.optimizers import OptimizerConfig, make_optimizer
from jaxir.train.step import make_train_step, plan_state
from jaxir.types import RankBatch, TokenBatch

NAME = "rank-step"


def list_batch(lists: int, list_size: int, length: int) -> RankBatch:
    """Lists of random tokens whose first document is relevant."""
    tokens = random_tokens(lists * list_size, length)
    doc = TokenBatch(
        *(x.reshape(lists, list_size, length) for x in (tokens.ids, tokens.mask))
    )
    labels = np.zeros((lists, list_size), np.float32)
    labels[:, 0] = 1.0
    return RankBatch(None, doc, labels, np.ones(labels.shape, bool))


def _our_step(
    config: RankT5Config, batch: RankBatch, chunk_size: int | None
) -> Callable[[], None]:
    mesh = make_mesh()
    task = make_task(config, RankLoss("softmax", chunk_size=chunk_size))
    optimizer = make_optimizer(OptimizerConfig(), total_steps=1000)
    plan = plan_state(task, optimizer, batch, jax.random.key(0), mesh=mesh)
    step = make_train_step(
        task, optimizer, mesh=mesh,
        shardings=jax.tree.map(lambda leaf: leaf.sharding, plan.like),
    )  # fmt: skip
    state, on_device = plan.make(), put_batch(batch, mesh)

    def run() -> None:
        nonlocal state
        state, metrics = step(state, on_device)
        jax.block_until_ready((state, metrics))

    return run


def _torch_step(config: RankT5Config, batch: RankBatch) -> Callable[[], None]:
    import torch

    encoder = torch_encoder(config.backbone).train()
    head = torch.nn.Linear(config.backbone.emb_dim, 1)
    weights = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=2e-5, weight_decay=0.01)
    lists, list_size, length = batch.doc.ids.shape
    ids = torch.tensor(batch.doc.ids.reshape(-1, length), dtype=torch.long)
    mask = torch.tensor(batch.doc.mask.reshape(-1, length).astype(np.int64))

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        states = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        scores = head(states[:, 0]).reshape(lists, list_size)
        target = torch.zeros(lists, dtype=torch.long)
        torch.nn.functional.cross_entropy(scores, target).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    return run


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields a case with the whole batch at once and one in chunks."""
    on_cpu = jax.default_backend() == "cpu"
    if on_cpu:
        lists, list_size, length = (2, 4, 64) if quick else (2, 36, 128)
    else:
        lists, list_size, length = 32, 36, 128
    head = "enc" if on_cpu else "encdec"
    # both without dropout: the generators differ, the products are compared
    config = RankT5Config(
        dataclasses.replace(backbone(), dropout_rate=0.0), head=head, max_length=length
    )
    batch = list_batch(lists, list_size, length)
    have_torch = on_cpu and all(
        map(importlib.util.find_spec, ("torch", "transformers"))
    )
    if not have_torch:
        print("rank-step: no PyTorch peer here", file=sys.stderr)
    pairs = lists * list_size
    for chunk_size in (None, pairs // (4 if on_cpu else 8)):
        ours = _our_step(config, batch, chunk_size)
        if have_torch:
            peer = _torch_step(config, batch)
            times = compare(ours, peer, pairs=3 if quick else 7)
        else:
            times = alone(ours)
        label = f"{head} {lists}x{list_size}x{length}"
        label += f" in chunks of {chunk_size}" if chunk_size else ""
        # forward and twice that backward; recomputation is not counted as work done
        flops = 3 * encoder_flops(config.backbone, pairs, length)
        yield {
            "name": NAME, "case": label, "peer": "torch", **times,
            "pairs_per_s": pairs / times["ours_s"],
            **fraction_of_peak(flops, times["ours_s"], config.backbone.dtype),
            "versions": versions("torch", "transformers"),
        }  # fmt: skip
