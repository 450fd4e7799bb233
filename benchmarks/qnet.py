"""Exhaustive search with q-nets of six blocks of 768, the released model's, random.

On a CPU, float32 over all processors, as the search runs: against numpy's product of a
layer's shape for the same number of operations, against a q-net written plainly in
PyTorch, and eight queries against what ``vmap`` makes of one query's q-net; then the
memory of a search.  On an accelerator, bfloat16: ``achieved`` operations a second and
their share of the rate measured for ``[65536, 768] x [768, 768]``.  ``projected_s`` is
the time of one query over the 8,841,823 passages of MS MARCO beside the paper's 1.7698
seconds on an L40S.  ``recompiled`` counts compilations while the clock ran.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from memory import printed
from timing import alone, compare, versions

from jaxir import blocks
from jaxir.hyper.qnet import QNetSpec, QNetWeights, apply, flops
from jaxir.hyper.search import default_block_rows, exhaustive_search, stream_search
from jaxir.mesh import cpu_cores
from jaxir.vectors import BlockedVectors

NAME = "qnet"
SPEC = QNetSpec()
K = 100
MSMARCO, PAPER_S = 8_841_823, 1.7698
LAYER_ROWS = 65_536


def random_weights(num_queries: int, spec: QNetSpec = SPEC) -> QNetWeights:
    """Weights as a trained q-net's are in size."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return 0.05 * rng.standard_normal((num_queries, *shape), dtype=np.float32)

    pairs = list(zip(spec.widths[:-1], spec.widths[1:], strict=True))
    return QNetWeights(
        tuple(normal(*pair) for pair in pairs),
        tuple(normal(pair[1]) for pair in pairs),
        normal(spec.hidden[-1]),
    )


@contextlib.contextmanager
def _compilations(case: dict) -> Iterator[None]:
    """Writes the number of compilations inside to ``case["recompiled"]``."""
    count = 0

    def listen(event: str, duration: float, **_: object) -> None:
        nonlocal count
        count += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield
    jax.monitoring.unregister_event_duration_listener(listen)
    case["recompiled"] = count


def _rates(num_queries: int, num_docs: int, seconds: float, rate: float) -> dict:
    achieved = flops(SPEC) * num_queries * num_docs / seconds
    return {
        "achieved": achieved,
        "fraction_of_peak": achieved / rate,
        "projected_s": flops(SPEC) * MSMARCO / achieved,
        "paper_s": PAPER_S,
    }


# --- on a CPU -------------------------------------------------------------------------


def _numpy_layers(num_docs: int, count: int) -> Callable[[], None]:
    """The operations of ``count`` q-nets, in numpy's products of a layer's shape."""
    x = np.ones((num_docs, SPEC.input_width), np.float32)
    kernel = np.ones((SPEC.input_width, SPEC.hidden[0]), np.float32)

    def run() -> None:
        for _ in range(SPEC.depth * count):
            np.matmul(x, kernel)

    return run


def _torch_search(weights: QNetWeights, vectors: np.ndarray) -> Callable[[], None]:
    """The q-net as one writes it, documents block by block, then a top-k."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(cpu_cores())
    kernels, biases = (
        [torch.from_numpy(part) for part in parts] for parts in weights[:2]
    )
    output, docs = torch.from_numpy(weights.output), torch.from_numpy(vectors)
    rows = default_block_rows()

    def score(block: "torch.Tensor") -> "torch.Tensor":
        x = block.expand(len(output), *block.shape)
        for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            y = torch.relu(torch.einsum("qni,qio->qno", x, kernel) + bias[:, None])
            y = functional.layer_norm(y, y.shape[-1:], eps=SPEC.norm_eps)
            x = y + x if i < SPEC.depth - 1 else y
        return torch.einsum("qno,qo->qn", x, output)

    def run() -> None:
        with torch.inference_mode():
            scores = torch.cat([score(block) for block in docs.split(rows)], dim=1)
            torch.topk(scores, K)

    return run


@dataclasses.dataclass(frozen=True)
class VmapScore:
    """What one writes first: one query's q-net, vmapped over the queries."""

    def __call__(self, weights: QNetWeights, block: jax.Array) -> jax.Array:
        """Scores ``[B, N]``."""
        return jax.vmap(functools.partial(apply, SPEC), (0, None))(weights, block)


def _on_cpu(quick: bool) -> Iterator[dict]:
    pairs = 3 if quick else 7
    rng = np.random.default_rng(1)
    have_torch = bool(importlib.util.find_spec("torch"))
    if not have_torch:
        print("qnet: PyTorch is not installed, no peer", file=sys.stderr)
    for count, num_docs in ((1, 8192), (8, 2048 if quick else 4096)):
        weights = random_weights(count)
        vectors = rng.standard_normal((num_docs, SPEC.input_width), dtype=np.float32)

        def ours(weights=weights, vectors=vectors) -> None:
            stream_search(SPEC, weights, vectors, K)

        def vmapped(weights=weights, vectors=vectors) -> None:
            blocks.stream_search(VmapScore(), weights, vectors, K)  # all at once

        layers = _numpy_layers(num_docs, count)
        peers = {"numpy sgemm": layers}
        if have_torch:
            peers["torch"] = _torch_search(weights, vectors)
        if count > 1:
            peers["vmap"] = vmapped
        operations = 2.0 * num_docs * count * SPEC.depth * SPEC.input_width**2
        rate = operations / alone(layers, runs=3)["ours_s"]
        for peer, work in peers.items():
            case = {"name": NAME, "case": f"{count} x {num_docs} docs", "peer": peer}
            ours(), work()
            with _compilations(case):
                times = compare(ours, work, pairs=pairs)
            case |= times | _rates(count, num_docs, times["ours_s"], rate)
            yield {**case, "versions": versions("torch")}


_MEMORY = """
import sys
from jaxir.mesh import use_cpu_cores
use_cpu_cores()
import jax
import numpy as np
from memory import grown
from qnet import K, random_weights
from jaxir.hyper.qnet import QNetSpec
from jaxir.hyper.search import stream_search

vectors = np.load(sys.argv[1], mmap_mode="r")
spec = QNetSpec(hidden=(768,) * 2)
weights = jax.device_put(random_weights(8, spec))  # as an encoder leaves them
stream_search(spec, weights, np.ones((6_000, 768), np.float32), K)
print(grown(lambda: stream_search(spec, weights, vectors, K)))
"""


def _memory(quick: bool) -> Iterator[dict]:
    """Two blocks of 768 rather than six: what is held at a time is the same."""
    num_docs = 20_000 if quick else 100_000
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        vectors = rng.standard_normal((num_docs, SPEC.input_width), dtype=np.float32)
        np.save(path, vectors)
        yield {
            "name": NAME, "case": f"memory of 8 x {num_docs} docs",
            "peak_bytes": printed(_MEMORY, path),
            "bound_bytes": int(1.2 * vectors.nbytes), "versions": versions(),
        }  # fmt: skip


# --- on an accelerator ----------------------------------------------------------------


def layer_rate(dtype: str) -> float:
    """Operations a second of ``[65536, 768] x [768, 768]``, a q-net's ceiling."""
    width = SPEC.input_width
    x = jax.random.normal(jax.random.key(0), (LAYER_ROWS, width), dtype)
    kernel = jax.random.normal(jax.random.key(1), (width, width), dtype)
    repeats = 20

    @jax.jit
    def products(x: jax.Array, kernel: jax.Array) -> jax.Array:
        # Each reads the one before, so that none is left out.
        return jax.lax.fori_loop(0, repeats, lambda _, y: y @ kernel * 0.03, x)

    seconds = alone(lambda: jax.block_until_ready(products(x, kernel)))["ours_s"]
    return 2.0 * repeats * LAYER_ROWS * width**2 / seconds


def _on_accelerator(quick: bool) -> Iterator[dict]:
    rate = layer_rate("bfloat16")
    num_docs = 2**18 if quick else 2**20
    for count in (1, 8):
        weights = jax.device_put(random_weights(count))
        for rows in (8192, 16_384, 32_768, 65_536):
            shape = (num_docs // rows, rows, SPEC.input_width)
            held = jax.random.normal(jax.random.key(2), shape, jnp.bfloat16)
            vectors = BlockedVectors(held, num_docs)

            def ours(weights=weights, vectors=vectors) -> None:
                jax.block_until_ready(exhaustive_search(SPEC, weights, vectors, K))

            label = f"{count} x {num_docs} docs, blocks of {rows}"
            case = {"name": NAME, "case": label, "peer": None}
            ours()
            with _compilations(case):
                times = alone(ours)
            case |= times | _rates(count, num_docs, times["ours_s"], rate)
            yield {**case, "versions": versions()}


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields cases against each peer and of memory, or rates on an accelerator."""
    if jax.default_backend() != "cpu":
        yield from _on_accelerator(quick)
        return
    yield from _on_cpu(quick)
    if sys.platform.startswith("linux"):
        yield from _memory(quick)
