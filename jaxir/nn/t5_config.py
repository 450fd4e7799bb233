"""The configuration of a T5."""

import dataclasses

from jaxir.errors import InputError
from jaxir.nn.t5_layers import MLP_ACTIVATIONS

__all__ = ["T5Config"]


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Shape and numerics of a T5; the defaults are T5 1.0 base's.

    Attributes:
      vocab_size: rows of the table, padding to a round number included.
      emb_dim: width of a token state.
      num_heads: attention heads.
      head_dim: width of a head; heads times this need not be ``emb_dim``.
      mlp_dim: inner width of the feed-forward layers.
      num_encoder_layers: layers of the encoder.
      num_decoder_layers: layers of the decoder.
      mlp_activations: ``("relu",)`` in 1.0, ``("gelu", "linear")`` in 1.1.
      logits_via_embedding: logits by the embedding table (1.0), not by their own (1.1).
      dropout_rate: everywhere T5X drops.
      relpos_buckets: buckets of relative positions.
      relpos_max_distance: from this distance on there is one bucket.
      norm_eps: added to mean squares.
      pad_id: id of the padding token, with which a decoder starts.
      dtype: compute type, ``float32`` or ``bfloat16``; parameters, norms, softmax and
        logits are float32.
      remat: recompute each layer in the backward pass, to save memory.
      scan_layers: compile one layer, looped over; the parameters are then stacked.

    Raises:
      InputError: for a number out of range or an unknown name.

    Example::

      >>> T5Config(emb_dim=512, num_heads=8).max_length
      1048576
    """

    vocab_size: int = 32128
    emb_dim: int = 768
    num_heads: int = 12
    head_dim: int = 64
    mlp_dim: int = 3072
    num_encoder_layers: int = 12
    num_decoder_layers: int = 12
    mlp_activations: tuple[str, ...] = ("relu",)
    logits_via_embedding: bool = True
    dropout_rate: float = 0.1
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    norm_eps: float = 1e-6
    pad_id: int = 0
    dtype: str = "float32"
    remat: bool = False
    scan_layers: bool = False

    def __post_init__(self) -> None:
        """Checks what would otherwise fail deep inside a trace."""
        for name in (
            "vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim",
            "num_encoder_layers", "num_decoder_layers",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                found = str(getattr(self, name))
                raise InputError(f"T5Config.{name}", found, "at least 1")
        if not isinstance(self.mlp_activations, tuple):  # a list has no hash for jit
            found = repr(self.mlp_activations)
            raise InputError("T5Config.mlp_activations", found, "a tuple of names")
        names = [
            ("mlp_activations", x, tuple(MLP_ACTIVATIONS)) for x in self.mlp_activations
        ]
        for name, value, known in (
            *names,
            ("dtype", self.dtype, ("float32", "bfloat16")),
        ):
            if value not in known:
                expected = "one of " + ", ".join(known)
                raise InputError(f"T5Config.{name}", repr(value), expected)
        if not self.mlp_activations:
            raise InputError("T5Config.mlp_activations", "none", "at least one name")
        if not 0 <= self.dropout_rate < 1:
            found = str(self.dropout_rate)
            raise InputError("T5Config.dropout_rate", found, "a rate from 0 to below 1")
        if not 0 <= self.pad_id < self.vocab_size:
            expected = f"0 to {self.vocab_size - 1}, the vocabulary"
            raise InputError("T5Config.pad_id", str(self.pad_id), expected)
        if self.relpos_buckets < 4:  # both directions have single distances
            found = str(self.relpos_buckets)
            raise InputError("T5Config.relpos_buckets", found, "at least 4")
        if self.relpos_max_distance <= self.relpos_buckets // 2:
            raise InputError(
                "T5Config.relpos_max_distance", str(self.relpos_max_distance),
                f"above {self.relpos_buckets // 2}, the single distances",
            )  # fmt: skip

    @property
    def max_length(self) -> int:
        """The most tokens that a text may have: no table of positions bounds it."""
        return 2**20
