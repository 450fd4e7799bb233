"""Every shape that requests can need, compiled before the first of them comes."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxir.serve.batching import Work
from jaxir.serve.works import DEPTHS, PAIRS, Query, embed_plan, sizes_to

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model
    from jaxir.encode import TextEncoder
    from jaxir.scorers import Scorer
    from jaxir.text import Tokenizer

__all__ = ["Tick", "search_sizes", "warm_encoder", "warm_scorer", "warm_search"]

Tick = Callable[[], None]
"""Is called between compilations; what it raises ends the warm-up."""


def search_sizes(kind: str, most: int) -> tuple[int, ...]:
    """Numbers of queries that a call of an index is made for.

    Args:
      kind: of the index.
      most: queries that the service takes together.
    """
    from jaxir.openers import OPENERS

    if kind == "bm25":  # a query at a time: only the turns of others matter
        return (min(4, most),)
    step = 2 if kind == "hypencoder" else 4
    return sizes_to(min(OPENERS[kind].batch, most), step)


def warm_search(
    work: Callable[[int], Work], model: "Model | None", *, most_k: int, tick: Tick
) -> None:
    """Searches once in every shape.

    Args:
      work: of an index's queries.
      model: of its queries, if any.
      most_k: the largest ``k``.
      tick: see :data:`Tick`.
    """
    depths = sorted({min(depth, most_k) for depth in (*DEPTHS, most_k)})
    for depth in depths:
        for size in work(depth).sizes:
            tick()
            work(depth).run([Query("a", 1, documents=False)] * size)
    if model is None:
        return
    config, own = model.config, work(depths[0]).sizes
    for text, length in _texts(
        model.tokenizer, config.query_length, config.query_template
    ):
        for size in {*own, *_new_shapes(length, config.query_length, own[-1])}:
            tick()
            work(depths[0]).run([Query(text, 1, documents=False)] * size)


def warm_encoder(encoder: "TextEncoder", work: Work, tick: Tick) -> None:
    """Embeds once in every shape.

    Args:
      encoder: of one side.
      work: of :func:`jaxir.serve.works.embed_work`.
      tick: see :data:`Tick`.
    """
    seen: set[tuple[int, int]] = set()
    for text, length in _texts(encoder.tokenizer, encoder.max_length, encoder.template):
        for size in work.sizes:
            shapes = {part.shape for part in embed_plan(encoder, [length] * size)}
            if not shapes <= seen:
                seen |= shapes
                tick()
                work.run([text] * size)


def warm_scorer(scorer: "Scorer", model: "Model", tick: Tick) -> None:
    """Scores once in every shape.

    Args:
      scorer: of the model.
      model: scores pairs.
      tick: see :data:`Tick`.
    """
    if hasattr(model.config, "max_length"):  # reads query and document together
        from jaxir.pairs import pair_format

        pairs = pair_format(
            model.tokenizer, template=getattr(model.config, "template", None),
            eos=getattr(model.config, "eos", True),
        )  # fmt: skip
        most = model.config.max_length
        fixed = pairs.fixed + len(model.tokenizer.pieces(["a"])[0])
        for text, length in _texts(model.tokenizer, most, "{text}", besides=fixed):
            for size in _new_shapes(length, most, PAIRS):
                tick()
                scorer(["a"], [[text] * size])
        return
    config = model.config
    for text, _ in _texts(model.tokenizer, config.query_length, "{text}"):
        tick()
        scorer([text], [["a"]])
    for text, length in _texts(model.tokenizer, config.doc_length, "{text}"):
        for size in _new_shapes(length, config.doc_length, PAIRS):
            tick()
            scorer(["a"], [[f"{text} {i}" for i in range(size)]])


def _texts(
    tokenizer: "Tokenizer", most: int, template: str, *, besides: int | None = None
) -> Iterator[tuple[str, int]]:
    """For each length that texts are padded to, a text of about that many tokens.

    Args:
      tokenizer: reads them.
      most: the longest length.
      template: around a text.
      besides: tokens around a text; None for those of the tokenizer's frame.
    """
    from jaxir.text import bucket_lengths

    for length in bucket_lengths(most):
        for words in range(length, 0, -1):
            text = " ".join(["a"] * words)
            if besides is None:
                whole = tokenizer.encode([template.format(text=text)], 2 * length + 8)
                tokens = len(whole[0])
            else:
                tokens = len(tokenizer.pieces([text])[0]) + besides
            if tokens <= length:
                yield text, length
                break


def _new_shapes(length: int, most: int, batch: int) -> Iterator[int]:
    """Numbers of texts of a length whose batches have a shape not seen before."""
    from jaxir.bucketing import default_batch_tokens, plan_batches
    from jaxir.mesh import make_mesh, num_shards

    seen: set[Any] = set()
    for size in sizes_to(batch):
        plan = plan_batches(
            np.full(size, length), most, batch_tokens=default_batch_tokens(),
            multiple=num_shards(make_mesh()), fill=False,
        )  # fmt: skip
        shapes = {part.shape for part in plan}
        if not shapes <= seen:
            seen |= shapes
            yield size
