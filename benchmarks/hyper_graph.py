"""Graph search: against the released algorithm in torch, and over your own index.

The peer walks over 200 000 documents as the authors' code does: string ids, a
dictionary look-up for every candidate, a priority queue, and a read of one score at a
time (`.item()`).  Both search with the rule ``released``, the same graph, entry points
and q-nets; the least share of equal ids is told, and how much the q-nets of both cost.
The vectors are clustered, the graph joins near clusters.

With ``--index`` the three settings of the search are varied one at a time over an index
and its queries, which gives the paper's figure 2 (arXiv 2502.05364): quality against
time and against the documents scored, beside the exhaustive search.
"""

import copy
import dataclasses
import importlib.util
import queue
import random
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from matmul import fraction_of_peak
from timing import alone, compare, versions

NAME = "hyper-graph"
DEGREE, K = 100, 1000
PANEL_HEIGHT = 320.0


def _documents(num_docs: int, width: int, seed: int = 0) -> tuple:
    """Clustered vectors and, for each, the nearest documents of four clusters."""
    rng = np.random.default_rng(seed)
    size, near = 100, 4
    num_clusters = num_docs // size
    centers = rng.standard_normal((num_clusters, width), dtype=np.float32)
    vectors = np.repeat(centers, size, axis=0)
    vectors += 0.7 * rng.standard_normal(vectors.shape, dtype=np.float32)
    close = np.argsort(-_closeness(centers, centers), axis=1)[:, :near]
    neighbors = np.empty((num_docs, DEGREE), np.int32)
    for cluster, others in enumerate(close):
        rows = (others[:, None] * size + np.arange(size)).reshape(-1)
        own = np.arange(cluster * size, (cluster + 1) * size)
        score = _closeness(vectors[own], vectors[rows])
        score[rows == own[:, None]] = -np.inf
        best = np.argpartition(-score, DEGREE, axis=1)[:, :DEGREE]
        neighbors[own] = rows[best]
    return vectors, neighbors


def _closeness(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x @ y.T - 0.5 * np.square(y).sum(1)


def _weights(batch: int, width: int, depth: int, seed: int = 1) -> tuple:
    """Random q-nets: kernels, biases and output of each query."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((batch, *shape), dtype=np.float32)

    kernels = tuple(normal(width, width) * width**-0.5 for _ in range(depth))
    biases = tuple(0.1 * normal(width) for _ in range(depth))
    return kernels, biases, normal(width)


def _torch_qnet(numbers: tuple, query: int, device: str) -> Callable:
    """One query's q-net as a plain function of vectors."""
    import torch

    def placed(x: np.ndarray) -> "torch.Tensor":
        return torch.from_numpy(x[query]).to(device)

    kernels, biases = ([placed(x) for x in part] for part in numbers[:2])
    output = placed(numbers[2])

    def score(x: "torch.Tensor") -> "torch.Tensor":
        for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            y = torch.relu(x @ kernel + bias)
            y = torch.nn.functional.layer_norm(y, y.shape[-1:])
            x = y + x if i + 1 < len(kernels) else y
        return x @ output

    return score


class _Peer:
    """The walk of the authors' code over torch tensors, one query at a time."""

    def __init__(self, vectors: np.ndarray, neighbors: np.ndarray, config) -> None:
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.vectors = torch.from_numpy(vectors).to(self.device)
        self.ids = [f"doc{row}" for row in range(len(vectors))]
        self.row_of = {name: row for row, name in enumerate(self.ids)}
        self.near = {
            self.ids[row]: [self.ids[other] for other in others]
            for row, others in enumerate(neighbors.tolist())
        }
        entry = random.Random(config.seed).sample(
            range(len(vectors)), config.entry_points
        )
        self.entry = [self.ids[row] for row in entry]
        self.config = config

    def search(self, qnet: Callable, k: int) -> list[int]:
        """The rows of the ``k`` best documents that the walk meets."""
        import torch

        with torch.inference_mode():
            return self._search(qnet, k)

    def _search(self, qnet: Callable, k: int) -> list[int]:
        import torch

        best: queue.PriorityQueue = queue.PriorityQueue(maxsize=k)
        candidates, explored = list(self.entry), set(self.entry)
        for _ in range(self.config.iterations):
            if not candidates:
                break
            rows = [self.row_of[name] for name in candidates]
            scores = qnet(self.vectors[rows])
            offered = min(max(self.config.explore, k), len(rows))
            _, places = torch.topk(scores, offered)
            current, candidates, entered = copy.deepcopy(candidates), [], 0
            for i, place in enumerate(places.cpu()):
                place = place.item()
                name, score = current[place], scores[place].item()
                if best.full():
                    lowest = best.get()
                    if score > lowest[0]:
                        entered += 1
                        best.put((score, name))
                    else:
                        best.put(lowest)
                else:
                    entered += 1
                    best.put((score, name))
                if i < self.config.explore:
                    for other in self.near[name]:
                        if other not in explored:
                            candidates.append(other)
                            explored.add(other)
            if not entered and self.config.early_stop:
                break
        found = []
        while not best.empty():
            score, name = best.get()
            found.append((-score, self.row_of[name]))
        return [row for _, row in sorted(found)]


def _choose_threads(work: Callable[[], object]) -> int:
    """Gives torch one thread or all, whichever it is faster with just now."""
    import torch

    work()
    seconds = {}
    for threads in {1, torch.get_num_threads()}:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        work()
        seconds[threads] = time.perf_counter() - start
    best = min(seconds, key=seconds.__getitem__)
    torch.set_num_threads(best)
    return best


def _rated(case: dict, operations: float) -> dict:
    """The case with the rate of its products in float32, the type of the vectors."""
    return case | fraction_of_peak(operations, case["ours_s"], "float32")


CASES = {384: ((2, 1), (2, 32), (6, 1)), 64: ((2, 1), (2, 32))}
"""By width of the vectors: depth of the q-net, and queries of a batch."""


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields a case for each width of the vectors, depth of the q-net and batch."""
    import jax

    from jaxir.hyper.graph import GraphSearchConfig, graph_search, graph_vectors
    from jaxir.hyper.qnet import QNetSpec, QNetWeights, flops

    num_docs = 20_000 if quick else 200_000
    config = GraphSearchConfig(rule="released")
    has_peer = importlib.util.find_spec("torch") is not None
    for width, cases in CASES.items():
        vectors, neighbors = _documents(num_docs, width)
        peer = _Peer(vectors, neighbors, config) if has_peer else None
        docs, graph = graph_vectors(vectors), jax.device_put(neighbors)
        for depth, batch in cases:
            spec = QNetSpec(input_width=width, hidden=(width,) * depth)
            numbers = _weights(batch, width, depth)
            weights = jax.device_put(QNetWeights(*numbers))

            def ours(spec=spec, weights=weights, docs=docs, graph=graph):
                return graph_search(spec, weights, docs, graph, K, config)

            found = ours()
            scored = float(np.sum(found.scored))
            case = {
                "name": NAME,
                "case": f"{num_docs}x{width}, depth {depth}, batch {batch}",
                "peer": "torch walk",
                "docs_scored": scored / batch,
                "versions": versions("torch"),
            }
            if peer is None:
                yield _rated(case | alone(ours), scored * flops(spec))
                continue
            qnets = [_torch_qnet(numbers, i, peer.device) for i in range(batch)]

            def theirs(qnets=qnets, peer=peer) -> list:
                return [peer.search(qnet, K) for qnet in qnets]

            case["peer_threads"] = _choose_threads(partial(peer.search, qnets[0], K))
            equal = [
                len(set(row.tolist()) & set(rows)) / len(rows)
                for row, rows in zip(found.ranking.doc_ids, theirs(), strict=True)
            ]
            pairs = 3 if quick or batch > 1 else 7
            case |= {"same_ids": min(equal)} | compare(ours, theirs, pairs=pairs)
            yield _rated(case, scored * flops(spec))


# --- the settings of a search over one's own index ----------------------------------


def settings(num_docs: int, rule: str) -> dict[str, list]:
    """For each of the three parameters its name and the searches that vary it."""
    from jaxir.hyper.graph import GraphSearchConfig

    entry_points, explore = max(1, min(10_000, num_docs // 16)), min(32, num_docs)
    base = GraphSearchConfig(entry_points, explore, 8, rule)
    steps = {
        "entry_points": [base.entry_points * 4**step // 16 for step in range(5)],
        "explore": [4, 8, 16, 32, 64, 128],
        "iterations": [1, 2, 4, 8, 16],
    }
    return {
        name: [
            dataclasses.replace(base, **{name: value})
            for value in sorted({min(max(value, 1), num_docs) for value in values})
        ]
        for name, values in steps.items()
    }


def study(
    *, index: str, queries: str, output: str, k: int = 100, rule: str = "paper"
) -> Iterator[dict]:
    """Yields a case for the exhaustive search and for each setting; draws the figure.

    Args:
      index: a Hypencoder's, with a neighbour graph.
      queries: ``COLLECTION:SPLIT`` with judgments.
      output: the SVG file.
      k: results of a query.
      rule: of the graph search.
    """
    from jaxir.data.collection import judged_queries
    from jaxir.evaluate import evaluate
    from jaxir.files import atomic_file
    from jaxir.hyper.graph import GraphSearchConfig
    from jaxir.search import open_index

    _, texts, qrels = judged_queries(queries)

    def measured(label: str, config=None) -> dict:
        mode = "exhaustive" if config is None else "graph"
        searcher = open_index(index, mode=mode, graph=config)
        everything = list(texts.values())
        # The first search compiles the encoder for queries of every length, the others
        # only a program of their own.
        searcher.search_texts(everything if config is None else everything[:9], k)
        searcher.docs_scored, start = 0, time.perf_counter()
        run = searcher.search(texts, k=k)
        seconds = time.perf_counter() - start
        quality = evaluate(qrels, {label: run}, metrics=["nDCG@10"], tests=())
        return {
            "name": NAME,
            "case": label,
            "nDCG@10": quality.mean(label, "nDCG@10"),
            "docs_scored": searcher.docs_scored / len(texts),
            "share_scored": searcher.docs_scored / len(texts) / searcher.num_docs,
            "ours_s": seconds / len(texts),
        }

    least = GraphSearchConfig(entry_points=1, rule=rule)
    num_docs = open_index(index, mode="graph", graph=least).num_docs  # a graph or error
    k = min(k, num_docs)
    whole = measured("exhaustive")
    yield whole
    known: dict = {}
    lines: dict[str, list[dict]] = {}
    for parameter, configs in settings(num_docs, rule).items():
        lines[parameter] = []
        for config in configs:
            if config not in known:
                label = (
                    f"entry {config.entry_points}, explore {config.explore}, "
                    f"iterations {config.iterations}"
                )
                known[config] = measured(label, config)
                yield known[config]
            lines[parameter].append(known[config])
    with atomic_file(output) as out:
        out.write(_figure(lines, whole))


def _figure(lines: dict[str, list[dict]], whole: dict) -> str:
    """Two panels, one above the other, as a file that needs no other."""
    from jaxir.plots import color_classes, line_plot
    from jaxir.style import svg_file

    panels = []
    for x, unit in (("ours_s", 1e3), ("share_scored", 100.0)):
        curves = {
            name.replace("_", " "): (
                [unit * c[x] for c in cases],
                [c["nDCG@10"] for c in cases],
            )
            for name, cases in lines.items()
        }
        curves["exhaustive"] = ([unit * whole[x]], [whole["nDCG@10"]])
        label = {
            "ours_s": "milliseconds a query, the making of its q-net included",
            "share_scored": "documents scored, in percent",
        }[x]
        drawn = line_plot(
            "nDCG@10", curves, color_classes(list(curves), "exhaustive"),
            x_label=label, height=PANEL_HEIGHT,
        )  # fmt: skip
        panels.append(drawn)
    return svg_file(panels, PANEL_HEIGHT)
