"""Scoring query-document pairs with RankT5, T5-small's sizes and random weights.

``enc`` against PyTorch's ``T5EncoderModel`` on the very same padded batches, float32,
all processors; the scorer of ``encdec`` against that of ``enc`` over the same pairs,
since one decoder step should cost next to nothing; pairs of mixed length against
ourselves with every pair padded to the longest, where length buckets should win what
the share of padding promises (``token_ratio``).  ``pairs_per_s`` and, on an
accelerator, ``fraction_of_peak`` of the matrix-product rate measured beside it.
"""

import dataclasses
import functools
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from encoder import random_tokens
from matmul import fraction_of_peak
from timing import alone, compare, versions

from jaxir.bucketing import plan_batches
from jaxir.mesh import cpu_cores, make_mesh, num_shards, put_batch, replicated
from jaxir.nn.t5 import T5Config
from jaxir.pairs import Pair
from jaxir.rank.model import RankT5Config, init_params, score
from jaxir.rank.score import EncodedLists, PairScorer
from jaxir.text import load_tokenizer
from jaxir.types import TokenBatch

NAME = "rank-score"

SMALL = T5Config(
    emb_dim=512, num_heads=8, mlp_dim=2048, num_encoder_layers=6, num_decoder_layers=6
)
BASE = T5Config()  # an accelerator is not filled by less
MAX_LENGTH = 128


def backbone() -> T5Config:
    """T5-small on a CPU; T5-base in bfloat16 on an accelerator."""
    if jax.default_backend() == "cpu":
        return SMALL
    return dataclasses.replace(BASE, dtype="bfloat16")


def encoder_flops(config: T5Config, rows: int, length: int) -> float:
    """Operations of the encoder's matrix products, two for a multiply-add."""
    width, inner = config.emb_dim, config.num_heads * config.head_dim
    gates = len(config.mlp_activations)
    layer = 4 * width * inner + (gates + 1) * width * config.mlp_dim
    attention = 2 * length * inner
    return 2.0 * rows * length * config.num_encoder_layers * (layer + attention)


def torch_encoder(config: T5Config, dropout: float = 0.0) -> Any:
    """The same encoder in PyTorch, with all processors."""
    import torch
    import transformers

    torch.set_num_threads(cpu_cores())
    return transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=config.vocab_size,
            d_model=config.emb_dim,
            d_kv=config.head_dim,
            d_ff=config.mlp_dim,
            num_layers=config.num_encoder_layers,
            num_heads=config.num_heads,
            dropout_rate=dropout,
        )
    )


def _scorer(config: RankT5Config) -> Callable[[TokenBatch], jax.Array]:
    """Compiled scoring over all devices, parameters placed."""
    mesh = make_mesh()
    params = jax.device_put(init_params(config, jax.random.key(0)), replicated(mesh))
    compiled = jax.jit(functools.partial(score, config))
    return lambda tokens: compiled(params, put_batch(tokens, mesh))


def _torch_scorer(config: RankT5Config, tokens: TokenBatch) -> Callable[[], None]:
    import torch

    model = torch_encoder(config.backbone).eval()
    inputs = {
        "input_ids": torch.tensor(tokens.ids, dtype=torch.long),
        "attention_mask": torch.tensor(tokens.mask.astype(np.int64)),
    }

    def run() -> None:
        with torch.inference_mode():
            model(**inputs)

    return run


def _against_torch(quick: bool) -> Iterator[dict]:
    config = RankT5Config(backbone(), head="enc", max_length=MAX_LENGTH)
    ours = _scorer(config)
    have_torch = all(map(importlib.util.find_spec, ("torch", "transformers")))
    if not have_torch:
        print("rank-score: PyTorch is not installed, no peer", file=sys.stderr)
    on_cpu = jax.default_backend() == "cpu"
    shapes = ((8, 128), (16, 64), (32, 32)) if on_cpu else ((256, 128), (1024, 128))
    for rows, length in shapes[:1] if quick else shapes:
        tokens = random_tokens(rows, length)

        def scored(tokens=tokens) -> None:
            jax.block_until_ready(ours(tokens))

        if have_torch and on_cpu:
            peer = _torch_scorer(config, tokens)
            times = compare(scored, peer, pairs=3 if quick else 9)
        else:
            times = alone(scored)
        flops = encoder_flops(config.backbone, rows, length)
        yield {
            "name": NAME, "case": f"enc {rows}x{length}", "peer": "torch", **times,
            "pairs_per_s": rows / times["ours_s"],
            **fraction_of_peak(flops, times["ours_s"], config.backbone.dtype),
            "versions": versions("torch", "transformers"),
        }  # fmt: skip


def _pair_scorer(head: str) -> PairScorer:
    """The library's scorer; its tokenizer knows nothing but padding."""
    config = RankT5Config(backbone(), head=head, max_length=MAX_LENGTH)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
        tokenizer = load_tokenizer(folder)
    params = init_params(config, jax.random.key(0))
    return PairScorer(config, params, tokenizer, many=True)


def _some_pairs(lengths: np.ndarray) -> EncodedLists:
    rng = np.random.default_rng(0)
    pairs = [
        Pair(rng.integers(5, 30_000, length, np.int32), length, 0, 0)
        for length in lengths.tolist()
    ]
    return EncodedLists(pairs, [len(pairs)])


def _marco_lengths(count: int) -> np.ndarray:
    """Tokens of MS MARCO's pairs: around 90, cut at 128."""
    drawn = np.random.default_rng(0).normal(90, 24, count)
    return np.clip(drawn, 24, MAX_LENGTH).astype(int)


def _decoder(quick: bool) -> Iterator[dict]:
    """What the decoder step adds: ``ratio`` is the encoder's time over ours."""
    whole, encoder = map(_pair_scorer, ("encdec", "enc"))
    batch = max(whole.batch_tokens // MAX_LENGTH, 1)
    cases = {
        f"encdec {batch}x{MAX_LENGTH}": np.full(batch, MAX_LENGTH),
        f"encdec {16 * batch}x{MAX_LENGTH}": np.full(16 * batch, MAX_LENGTH),
        f"encdec {64 * batch} of mixed length": _marco_lengths(64 * batch),
    }
    for case, lengths in list(cases.items())[: 1 if quick else None]:
        lists = _some_pairs(lengths)
        times = compare(
            functools.partial(whole.score, lists),
            functools.partial(encoder.score, lists),
            pairs=3 if quick else 9,
            repeat=8 if len(lengths) == batch else 1,
        )
        yield {
            "name": NAME, "case": case, "peer": "enc", **times,
            "pairs_per_s": len(lengths) / times["ours_s"], "versions": versions(),
        }  # fmt: skip


def _mixed_lengths(quick: bool) -> Iterator[dict]:
    config = RankT5Config(backbone(), head="enc", max_length=MAX_LENGTH)
    score_batch = _scorer(config)
    count = 64 if quick else 256
    if jax.default_backend() != "cpu":
        count *= 64
    lengths = _marco_lengths(count)
    tokens = random_tokens(count, MAX_LENGTH)
    mask = np.arange(MAX_LENGTH)[None, :] < lengths[:, None]
    ids = np.where(mask, np.maximum(tokens.ids, 5), 0).astype(np.int32)
    shards = num_shards(make_mesh())
    budget = 1024 if jax.default_backend() == "cpu" else 32_768

    def batches(of: np.ndarray) -> list[TokenBatch]:
        made = []
        plan = plan_batches(of, MAX_LENGTH, batch_tokens=budget, multiple=shards)
        for rows, (height, length) in plan:
            batch = (
                np.zeros((height, length), np.int32),
                np.zeros((height, length), bool),
            )
            batch[0][: len(rows)] = ids[rows, :length]
            batch[1][: len(rows)] = mask[rows, :length]
            made.append(TokenBatch(*batch))
        return made

    bucketed, padded = batches(lengths), batches(np.full(count, MAX_LENGTH))

    def every(of: list[TokenBatch]) -> None:
        jax.block_until_ready([score_batch(batch) for batch in of])

    times = compare(
        lambda: every(bucketed), lambda: every(padded), pairs=3 if quick else 7
    )
    ratio = sum(b.ids.size for b in padded) / sum(b.ids.size for b in bucketed)
    yield {
        "name": NAME, "case": f"{count} pairs of mixed length", "peer": "padding",
        **times, "token_ratio": ratio, "pairs_per_s": count / times["ours_s"],
        "real_tokens": float(lengths.sum() / sum(b.ids.size for b in bucketed)),
        "versions": versions(),
    }  # fmt: skip


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields cases against torch, of the decoder step, and of length buckets."""
    yield from _against_torch(quick)
    yield from _decoder(quick)
    yield from _mixed_lengths(quick)
