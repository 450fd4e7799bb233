"""A training step of JPQ with live negatives against one with given negatives.

all-MiniLM-L6's sizes, 32 queries of 32 tokens with dropout, 200 negatives each, 200 k
documents of 24 codes (8.84 M of 96 on an accelerator): the whole step, search and
update of query tower and centroids included.  ``slowdown`` is ``ours_s`` over
``peer_s``: what the search costs; it should stay below 1.5.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np
from encoder import CONFIG, random_tokens
from timing import compare, versions

from jaxir.jpq import joint_optimizer
from jaxir.mesh import make_mesh, put_batch, replicated
from jaxir.pq.model import JpqConfig
from jaxir.pq.task import JpqLoss, make_task
from jaxir.train.optimizers import OptimizerConfig, make_optimizer
from jaxir.train.step import make_train_step, plan_state
from jaxir.types import RankBatch

NAME = "jpq-step"


def _batch(rows: int, num_docs: int, others: int) -> RankBatch:
    """Queries with a positive each, and so many given negatives."""
    docs = np.random.default_rng(2).integers(0, num_docs, (rows, 1 + others))
    labels = np.zeros(docs.shape, np.float32)
    labels[:, 0] = 1.0
    return RankBatch(
        random_tokens(rows, 32), None, labels, np.ones(docs.shape, bool),
        doc_index=docs.astype(np.int32),
    )  # fmt: skip


def _step(
    config: JpqConfig, losses: JpqLoss, codes: np.ndarray, batch: RankBatch
) -> Callable[[], None]:
    mesh = make_mesh()
    task = make_task(config, losses, codes, mesh=mesh)
    chosen = joint_optimizer(OptimizerConfig(), config, losses)
    optimizer = make_optimizer(chosen, total_steps=1000)
    plan = plan_state(task, optimizer, batch, jax.random.key(0), mesh=mesh)
    step = make_train_step(
        task, optimizer, mesh=mesh,
        shardings=jax.tree.map(lambda leaf: leaf.sharding, plan.like),
    )  # fmt: skip
    state, on_device = plan.make(), put_batch(batch, mesh)
    constants = jax.device_put(task.constants, replicated(mesh))

    def run() -> None:
        nonlocal state
        state, metrics = step(state, on_device, constants)
        jax.block_until_ready((state, metrics))

    return run


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields a case for each number of parts."""
    if jax.default_backend() == "cpu":
        cases = [(24, 20_000)] if quick else [(24, 200_000), (48, 200_000)]
    else:
        cases = [(24, 200_000), (96, 200_000 if quick else 8_841_823)]
    backbone = dataclasses.replace(CONFIG, dropout=0.1, attention_dropout=0.1)
    for subvectors, num_docs in cases:
        config = JpqConfig(backbone, subvectors=subvectors)
        draw = np.random.default_rng(1)
        codes = draw.integers(0, 256, (subvectors, num_docs), dtype=np.uint8)
        live = _step(config, JpqLoss(), codes, _batch(32, num_docs, 0))
        losses = JpqLoss(negatives="given")
        given = _step(config, losses, codes, _batch(32, num_docs, 200))
        times = compare(live, given, pairs=3 if quick else 7)
        yield {
            "name": NAME, "case": f"32 queries, {num_docs:,} x {subvectors} codes",
            "peer": "given negatives", **times,
            "slowdown": 1 / times["ratio"], "versions": versions(),
        }  # fmt: skip
