"""A linear task and a resumable iterator, for the tests of training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxir.types import Task


class Pair(NamedTuple):
    """Inputs [B, 4] and targets [B]."""

    x: Any
    y: Any


def linear_task(*, dropout: float = 0.2) -> Task:
    """Least squares with dropout on the input, so that the random key matters."""

    def init(rng, batch):
        kernel = jax.random.normal(rng, (batch.x.shape[-1],)) * 0.1
        return {"dense": {"kernel": kernel, "bias": jnp.zeros(())}}

    def loss(params, batch, rng):
        kept = jax.random.bernoulli(rng, 1 - dropout, batch.x.shape)
        x = jnp.where(kept, batch.x, 0.0)
        guess = x @ params["dense"]["kernel"] + params["dense"]["bias"]
        error = jnp.mean((guess - batch.y) ** 2)
        return error, {"abs": jnp.mean(jnp.abs(guess - batch.y))}

    return Task(init, loss)


class Stream:
    """Batches that are a function of the seed and the position."""

    steps_per_epoch = 10

    def __init__(self, rows=8, seed=0, bad_at=None):
        self.rows, self.seed, self.position, self.bad_at = rows, seed, 0, bad_at

    def __iter__(self):
        return self

    def __next__(self):
        rng = np.random.default_rng([self.seed, self.position])
        x = rng.standard_normal((self.rows, 4)).astype(np.float32)
        y = x @ np.array([1, -2, 3, 0.5], np.float32) + 1
        if self.position == self.bad_at:
            y = y * np.float32(np.nan)
        self.position += 1
        return Pair(x, y)

    def state(self):
        return {"position": self.position, "seed": self.seed}

    def restore(self, state):
        self.position = state["position"]


def distance(params) -> dict[str, float]:
    """How far the kernel is from the truth; lower is better."""
    kernel = np.asarray(params["dense"]["kernel"])
    return {"distance": float(np.abs(kernel - [1, -2, 3, 0.5]).max())}


def equal(a, b) -> bool:
    """Bit for bit."""
    same = jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b)
    return all(jax.tree.leaves(same))
