"""Exact top-k against the better of ``lax.top_k`` and numpy's partition.

numpy's way is ``argpartition`` and a sort of the ``k`` found, on the host; ours and
``lax.top_k`` run under jit.  All return the ``k`` best in order.
"""

from collections.abc import Iterator

import jax
import numpy as np
from timing import compare, versions

from jaxir.topk import top_k

NAME = "topk"


def _numpy_top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    doc_ids = np.argpartition(scores, -k, axis=-1)[..., -k:]
    best = np.take_along_axis(scores, doc_ids, axis=-1)
    order = np.argsort(-best, axis=-1, kind="stable")
    return (
        np.take_along_axis(doc_ids, order, axis=-1),
        np.take_along_axis(best, order, axis=-1),
    )


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields a case for each shape and peer, and one against the better peer."""
    cases = [((200_000,), 100), ((16, 200_000), 100), ((1_000_000,), 1000)]
    lax_top_k = jax.jit(jax.lax.top_k, static_argnums=1)
    for shape, k in cases[:1] if quick else cases:
        rng = np.random.default_rng(0)
        host = rng.standard_normal(shape, dtype=np.float32)
        device = jax.device_put(host)
        repeat = max(1, 2_000_000 // host.size)

        def ours(device=device, k=k) -> None:
            jax.block_until_ready(top_k(device, k))

        def lax(device=device, k=k) -> None:
            jax.block_until_ready(lax_top_k(device, k))

        def numpy(host=host, k=k) -> None:
            _numpy_top_k(host, k)

        pairs = 3 if quick else 15
        peers = {"lax.top_k": lax, "numpy.argpartition": numpy}
        label = "x".join(map(str, shape)) + f", k={k}"
        for peer, work in peers.items():
            times = compare(ours, work, pairs=pairs, repeat=repeat)
            case = {"name": NAME, "case": f"{label} / {peer}", "peer": peer}
            yield {**case, **times, "versions": versions()}
