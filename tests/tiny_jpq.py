"""An index of codes over the tiny collection, of a codec that is not trained."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxir.checkpoints.model_dir import Model
from jaxir.index import build_index
from jaxir.pq.codec import Codec, CodecSpec
from jaxir.pq_index import quantized_model

__all__ = ["tiny_jpq_index"]


def tiny_jpq_index(
    model: Model, collection: Path, place: Path, *, seed: int = 0, subvectors: int = 4
) -> Path:
    """An index of 4 bits a part, searchable and trainable.

    Args:
      model: a bi-encoder.
      collection: a folder.
      place: for the index.
      seed: of rotation and centroids.
      subvectors: parts of a vector.
    """
    draw, width = np.random.default_rng(seed), model.config.backbone.hidden_size
    rotation = np.linalg.qr(draw.normal(size=(width, width)))[0]
    spec = CodecSpec(width, subvectors, bits=4)
    centroids = draw.normal(size=spec.shape) / np.sqrt(width)
    parts = (jnp.asarray(part, jnp.float32) for part in (rotation, centroids))
    build_index(quantized_model(model, Codec(*parts)), collection, place, kind="pq")
    return place
