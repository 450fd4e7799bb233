"""Lists of documents from a SeqIO task, as the batches of :mod:`jaxir.rank.t5x`.

SeqIO and TensorFlow are imported when a class or a task is made, never with the module.
"""

import functools
import types
from typing import Any

from jaxir.errors import InputError

__all__ = ["feature_converter_class", "imported"]

INSTALL = "it is not on PyPI: install it as docs/t5x.md says"


def imported() -> types.SimpleNamespace:
    """T5X and what it brings, looked up when a class needs it.

    Raises:
      InputError: one of them cannot be imported.
    """
    try:
        import clu.metrics
        import flax.linen.partitioning
        import seqio
        import t5x.metrics
        import t5x.models
        import tensorflow as tf
    except ImportError as error:
        found = f"cannot be imported ({error})"
        raise InputError("t5x", found, remedy=INSTALL) from error
    return types.SimpleNamespace(
        Average=clu.metrics.Average,
        AxisMetadata=flax.linen.partitioning.AxisMetadata,
        metrics=t5x.metrics,
        models=t5x.models,
        seqio=seqio,
        tf=tf,
    )


@functools.cache
def feature_converter_class() -> type:
    """The class ``RankingFeatureConverter``, a ``seqio.FeatureConverter``.

    Raises:
      InputError: T5X cannot be imported.
    """
    lib = imported()
    tf, utils = lib.tf, lib.seqio.utils
    spec = lib.seqio.FeatureConverter.FeatureSpec
    tokens = spec(dtype=tf.int32, rank=2, sequence_dim=1)
    numbers, flags = spec(dtype=tf.float32), spec(dtype=tf.bool)

    class RankingFeatureConverter(lib.seqio.FeatureConverter):
        """Lists of a SeqIO task as batches of fixed shape, see the module's table.

        A task gives ``inputs`` and ``targets`` (int32, one row a document), ``label``
        and ``mask``; ``task_feature_lengths`` holds ``(L, T)``, ``(L, 1)``, ``(L,)``
        and ``(L,)`` for them.  Texts and lists are cut or padded to these.  Where the
        cut would leave a list without its positive, the first positive takes the last
        place: bind ``utils.DatasetConfig.trim_output_features = False``, for SeqIO
        would cut before the converter sees the list.

        Raises:
          InputError: for ``pack=True``: lists are not packed.
        """

        TASK_FEATURES = {  # noqa: RUF012 (SeqIO's own way)
            "inputs": tokens, "targets": tokens, "label": numbers, "mask": flags,
        }  # fmt: skip
        MODEL_FEATURES = {  # noqa: RUF012
            "encoder_input_tokens": tokens, "decoder_input_tokens": tokens,
            "decoder_target_tokens": tokens, "label": numbers, "mask": flags,
        }  # fmt: skip
        PACKING_FEATURE_DTYPES = None

        def __init__(
            self,
            pack: bool = False,
            use_custom_packing_ops: bool = False,
            apply_length_check: bool = False,  # SeqIO's knows one axis, lists have two
            bos_id: int = 0,
        ) -> None:
            if pack:
                remedy = "bind utils.DatasetConfig.pack = False in every scope"
                raise InputError("DatasetConfig.pack", "True", "False", remedy)
            super().__init__(
                pack=False,
                use_custom_packing_ops=use_custom_packing_ops,
                apply_length_check=apply_length_check,
                bos_id=bos_id,
            )

        def _convert_features(self, ds: Any, task_feature_lengths: Any) -> Any:
            lengths = {k: tuple(v) for k, v in task_feature_lengths.items()}
            places = lengths["label"][0]

            def keep_a_positive(features: Any) -> Any:
                """The list in its order, with a positive where the cut spares it."""
                relevant = (features["label"] > 0) & features["mask"]
                size = tf.shape(relevant)[0]
                first = tf.argmax(tf.cast(relevant, tf.int32), output_type=tf.int32)
                lost = tf.reduce_any(relevant) & (first >= places)
                order = tf.range(size)
                order = tf.where((order == places - 1) & lost, first, order)
                return {name: tf.gather(features[name], order) for name in lengths}

            def dense(features: Any) -> Any:
                return {
                    name: value.to_tensor(0)
                    if isinstance(value, tf.RaggedTensor)
                    else value
                    for name, value in features.items()
                }

            def renamed(features: Any) -> Any:
                return {
                    "encoder_input_tokens": features["inputs"],
                    "decoder_input_tokens": tf.zeros_like(features["targets"]),
                    "decoder_target_tokens": features["targets"],
                    "label": features["label"],
                    "mask": features["mask"],
                }

            parallel = {"num_parallel_calls": tf.data.AUTOTUNE}
            ds = ds.map(lambda x: keep_a_positive(dense(x)), **parallel)
            ds = utils.trim_and_pad_dataset(ds, lengths)
            return ds.map(renamed, **parallel)

        def get_model_feature_lengths(self, task_feature_lengths: Any) -> Any:
            """Shapes of the model's tensors from those of the task's."""
            lengths = task_feature_lengths
            return {
                "encoder_input_tokens": lengths["inputs"],
                "decoder_input_tokens": lengths["targets"],
                "decoder_target_tokens": lengths["targets"],
                "label": lengths["label"],
                "mask": lengths["mask"],
            }

    return RankingFeatureConverter
