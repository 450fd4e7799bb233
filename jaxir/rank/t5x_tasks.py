"""A SeqIO task over jaxir's lists, for :mod:`jaxir.rank.t5x`.

The tokens are those that jaxir itself would compute: the same joint text, cut at the
document and never at the query, so that what T5X trains, jaxir scores alike.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxir.data.collection import open_collection
from jaxir.data.lists import read_lists
from jaxir.data.table import build_table
from jaxir.errors import InputError
from jaxir.pairs import pair_format
from jaxir.rank.t5x_features import imported
from jaxir.text import load_tokenizer

__all__ = ["list_task"]


def list_task(
    name: str,
    collection: str | os.PathLike,
    lists: Mapping[str, str | os.PathLike],
    *,
    tokenizer: str | os.PathLike,
    vocabulary: Any,
    template: str = "Query: {query} Document: {document}",
    eos: bool = True,
    target_id: int = 32089,
    max_length: int = 128,
    seed: int = 0,
) -> Any:
    """Registers a SeqIO task whose examples are the lists of JSON lines files.

    To be called in a module of one's own, which ``gin.MIXTURE_OR_TASK_MODULE`` names.
    The documents of a list are shuffled: a list begins with its positive, and metrics
    of equal scores would otherwise flatter the model.

    Args:
      name: the task's, for ``gin.MIXTURE_OR_TASK_NAME``.
      collection: what ``jaxir.open_collection`` takes.
      lists: by SeqIO split (``train``, ``validation``), a file of ``jaxir mine``,
        ``jaxir label`` or :func:`jaxir.data.lists.write_lists`.
      tokenizer: what ``jaxir.load_tokenizer`` takes; T5's.
      vocabulary: the SeqIO vocabulary of the model, of the same pieces: T5X insists
        that task and model have the same.
      template: how a query and a document become one text.
      eos: whether ``</s>`` ends it, as Hugging Face's tokenizer does; the T5X example
        in google/rax leaves it out.
      target_id: the token whose logit is the score, ``<extra_id_10>`` in T5's.
      max_length: most tokens of a pair; not above ``INPUT_LENGTH``.
      seed: of the order within lists.

    Returns:
      The task.

    Raises:
      InputError: T5X's SeqIO cannot be imported; later, as SeqIO reads, whatever is
        wrong with the collection or the lists.
    """
    lib = imported()
    tf, seqio = lib.tf, lib.seqio
    if not lists:
        raise InputError("lists", "none", "a file for each split, 'train' among them")
    places = {split: os.fspath(path) for split, path in lists.items()}

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
        del shuffle_files, seed  # one file; SeqIO shuffles the examples
        examples = make(places[split])

        def ragged() -> Iterator[dict[str, Any]]:
            for flat, lengths, labels in examples():
                yield {
                    "inputs": tf.RaggedTensor.from_row_lengths(flat, lengths),
                    "targets": np.full((len(labels), 1), target_id, np.int32),
                    "label": labels,
                    "mask": np.ones(len(labels), bool),
                }

        rows = tf.RaggedTensorSpec([None, None], tf.int32, ragged_rank=1)
        signature = {
            "inputs": rows,
            "targets": tf.TensorSpec([None, 1], tf.int32),
            "label": tf.TensorSpec([None], tf.float32),
            "mask": tf.TensorSpec([None], tf.bool),
        }
        return tf.data.Dataset.from_generator(ragged, output_signature=signature)

    def make(path: str) -> Callable[[], Iterator[tuple]]:
        return _examples(
            path, collection, tokenizer, template=template, eos=eos,
            max_length=max_length, seed=seed,
        )  # fmt: skip

    def feature(dtype: Any, rank: int, vocabulary: Any) -> Any:
        return seqio.Feature(vocabulary, add_eos=False, dtype=dtype, rank=rank)

    nothing = seqio.PassThroughVocabulary(size=0)
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=sorted(places)),
        preprocessors=[],
        output_features={
            "inputs": feature(tf.int32, 2, vocabulary),
            "targets": feature(tf.int32, 2, vocabulary),
            "label": feature(tf.float32, 1, nothing),
            "mask": feature(tf.bool, 1, nothing),
        },
    )


def _examples(
    path: str,
    collection: str | os.PathLike,
    tokenizer: str | os.PathLike,
    *,
    template: str,
    eos: bool,
    max_length: int,
    seed: int,
) -> Callable[[], Iterator[tuple[np.ndarray, list[int], np.ndarray]]]:
    """A pass over the lists: all tokens, how many each document has, the labels."""
    opened = open_collection(collection)
    table = build_table(read_lists(path), opened, None)
    queries = list(opened.queries().values())
    form = pair_format(load_tokenizer(tokenizer), template=template, eos=eos)

    def examples() -> Iterator[tuple[np.ndarray, list[int], np.ndarray]]:
        for i, query_row in enumerate(table.query_rows.tolist()):
            start, stop = table.bounds[i : i + 2].tolist()
            order = np.random.default_rng([seed, i]).permutation(stop - start) + start
            (head,) = form.encode_queries([queries[query_row]])
            docs = opened.docs.texts(table.doc_rows[order])
            pairs = [
                form.join(head, doc, max_length).ids
                for doc in form.encode_docs(docs, max_length)
            ]
            lengths = [len(ids) for ids in pairs]
            yield np.concatenate(pairs), lengths, table.labels[order]

    return examples
