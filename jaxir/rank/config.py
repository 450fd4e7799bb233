"""What describes a cross-encoder: RankT5, monoT5, and BERT with a score."""

import dataclasses

from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig
from jaxir.nn.t5 import T5Config

__all__ = ["HEADS", "CrossEncoderConfig", "RankT5Config"]

HEADS = ("encdec", "enc")
"""What reads a score off T5: its decoder, or a dense layer over its encoder."""

_POOLING = ("cls", "mean")
_HIDDEN = (None, "tanh", "relu")


@dataclasses.dataclass(frozen=True)
class RankT5Config:
    """RankT5 or monoT5; the defaults are the released RankT5-base's.

    Attributes:
      backbone: the T5.
      head: ``encdec`` or ``enc``.
      pooling: of ``enc``: ``cls`` (the first token, the paper's choice) or ``mean``.
      target_id: of ``encdec``: id of the token whose logit is the score; 32089 is
        ``<extra_id_10>`` of T5's vocabulary.
      contrast_id: of ``encdec``: a second token, for monoT5's score; its ids in T5's
        vocabulary are 1176 (``true``, the target) and 6136 (``false``).
      max_length: the most tokens of a pair; 128 for MS MARCO, 384 for NQ (section 5.2).
      template: how a pair is written; monoT5 adds ``" Relevant:"``.
      eos: whether ``</s>`` ends the text, as Hugging Face's tokenizer does it.

    Raises:
      InputError: for an unknown name, an id outside the vocabulary, a contrast without
        a decoder, lengths the backbone cannot take, or a template without its places.

    Example::

      >>> config = RankT5Config(target_id=1176, contrast_id=6136)  # monoT5
      >>> config.backbone.num_decoder_layers
      12
    """

    backbone: T5Config = dataclasses.field(default_factory=T5Config)
    head: str = "encdec"
    pooling: str = "cls"
    target_id: int = 32089
    contrast_id: int | None = None
    max_length: int = 128
    template: str = "Query: {query} Document: {document}"
    eos: bool = True

    def __post_init__(self) -> None:
        """Checks names, ids, lengths and the template."""
        _check_name("RankT5Config.head", self.head, HEADS)
        _check_name("RankT5Config.pooling", self.pooling, _POOLING)
        _check_length("RankT5Config", self.max_length, self.backbone.max_length)
        if self.head == "encdec":
            self._check_ids()
        elif self.contrast_id is not None:
            raise InputError(
                "RankT5Config.contrast_id",
                f"{self.contrast_id} with head {self.head!r}, which has no vocabulary",
                "None",
                'or head="encdec"',
            )
        places = [self.template.find(place) for place in ("{query}", "{document}")]
        if places[0] < 0 or places[1] < places[0]:
            raise InputError(
                "RankT5Config.template", repr(self.template), "{query} then {document}"
            )

    def _check_ids(self) -> None:
        """The tokens whose logits are read exist and are two."""
        size = self.backbone.vocab_size
        for name in ("target_id", "contrast_id"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < size:
                expected = f"0 to {size - 1}, the vocabulary"
                raise InputError(f"RankT5Config.{name}", str(value), expected)
        if self.contrast_id == self.target_id:
            found = f"{self.contrast_id}, the target's own id"
            raise InputError("RankT5Config.contrast_id", found, "another token")

    @property
    def network(self) -> str:
        """Which network of ``rank.model`` this is."""
        return self.head


@dataclasses.dataclass(frozen=True)
class CrossEncoderConfig:
    """A BERT, RoBERTa or DistilBERT that scores ``[CLS] query [SEP] document [SEP]``.

    The classifiers of Hugging Face: BERT's has ``backbone.pooler``, RoBERTa's
    ``hidden="tanh"``, DistilBERT's ``hidden="relu"``, all over the first token.

    Attributes:
      backbone: the encoder; with its ``pooler`` the head reads the pooler's vector.
      pooling: ``cls`` or ``mean`` of the token states.
      hidden: activation of a dense layer before the score, ``tanh`` or ``relu``; None
        for no such layer.
      dropout: rate before the hidden layer and before the score.
      max_length: the most tokens of a pair.

    Raises:
      InputError: for an unknown name, a rate outside [0, 1), lengths beyond the
        backbone's positions, or a pooler under another pooling than ``cls``.

    Example::

      >>> CrossEncoderConfig(BertConfig(pooler=True)).hidden is None
      True
    """

    backbone: BertConfig = dataclasses.field(default_factory=BertConfig)
    pooling: str = "cls"
    hidden: str | None = None
    dropout: float = 0.1
    max_length: int = 128

    def __post_init__(self) -> None:
        """Checks names, the rate and lengths."""
        where = "CrossEncoderConfig"
        _check_name(f"{where}.pooling", self.pooling, _POOLING)
        _check_name(f"{where}.hidden", self.hidden, _HIDDEN)
        _check_length(where, self.max_length, self.backbone.max_length)
        if not 0 <= self.dropout < 1:
            found = str(self.dropout)
            raise InputError(f"{where}.dropout", found, "a rate from 0 to below 1")
        if self.backbone.pooler and self.pooling != "cls":
            raise InputError(
                f"{where}.pooling",
                f"{self.pooling!r} over a backbone with a pooler",
                "'cls', the token that the pooler reads",
                "or a backbone with pooler=False",
            )

    @property
    def network(self) -> str:
        """Which network of ``rank.model`` this is."""
        return "bert"


def _check_name(where: str, value: str | None, known: tuple[str | None, ...]) -> None:
    if value not in known:
        expected = "one of " + ", ".join(str(option) for option in known)
        raise InputError(where, repr(value), expected)


def _check_length(where: str, length: int, longest: int) -> None:
    if not 0 < length <= longest:
        raise InputError(
            f"{where}.max_length",
            f"{length} tokens",
            f"1 to {longest}, the backbone's positions",
        )
