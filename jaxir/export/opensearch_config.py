"""How sparse vectors stand in OpenSearch, and what its versions have of it.

=======  =====================================================================
version  what came with it
=======  =====================================================================
2.11     ``neural_sparse`` over ``rank_features``, tokens made by a model within
         the cluster
2.14     ``query_tokens``: the weights come with the query
2.15     ``neural_sparse_two_phase_processor``
2.19     its ``prune_type``
3.3      fields ``sparse_vector``, searched approximately (Seismic)
=======  =====================================================================
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from jaxir.errors import InputError
from jaxir.sparse.search import TwoPhase

__all__ = [
    "FIELDS",
    "PRUNE_TYPE",
    "QUERY_TOKENS",
    "SEISMIC",
    "OpenSearchConfig",
    "check_name",
    "version_number",
]

FIELDS = ("rank_features", "sparse_vector")
"""Types of field for sparse vectors: exact by tokens' names, approximate by ids."""

QUERY_TOKENS = (2, 14)
"""Version that came with weights in the query."""

PRUNE_TYPE = (2, 19)
"""Version that came with ways to part a query's tokens other than ``max_ratio``."""

SEISMIC = {
    "n_postings": int, "cluster_ratio": float, "summary_prune_ratio": float,
    "approximate_threshold": int, "quantization_ceiling_search": float,
    "quantization_ceiling_ingest": float,
}  # fmt: skip
"""Parameters of the method of a ``sparse_vector``, and their types."""

_OLDEST, _TWO_PHASE, _SPARSE_VECTOR = (2, 11), (2, 15), (3, 3)
_DEFAULT_VERSION = {"rank_features": "2.19", "sparse_vector": "3.3"}
_NAME = re.compile(r"[a-z0-9][a-z0-9_.+-]*")


def version_number(text: str) -> tuple[int, int]:
    """Major and minor number of a version of OpenSearch.

    Raises:
      InputError: not a version, or one without sparse vectors.

    Example::

      >>> version_number("2.15.0")
      (2, 15)
    """
    found = re.match(r"(\d+)\.(\d+)(?:\D|$)", text)
    if not found:
        raise InputError("version", repr(text), "a number such as 2.15")
    number = (int(found[1]), int(found[2]))
    if number < _OLDEST:
        raise InputError("version", f"OpenSearch {text}", "2.11 or newer")
    return number


@dataclasses.dataclass(frozen=True)
class OpenSearchConfig:
    """How sparse vectors stand in OpenSearch.

    Attributes:
      field: a name in :data:`FIELDS`: ``rank_features`` (exact, keys are the tokens
        themselves) or ``sparse_vector`` (approximate, keys are token ids).
      version: of OpenSearch; None for 2.19, or 3.3 where the field needs it.
      vector_name: name of the field with the weights.
      text_name: name of the field with title and text; None to leave them out.
      shards: primary shards; None for 1, or those of an index that stands.
      replicas: copies of each of them; None for 1.
      two_phase: what the search pipeline does; None for no pipeline.
      seismic: parameters of a ``sparse_vector``'s method, as ``n_postings``.

    Raises:
      InputError: a value that OpenSearch refuses, or that its version does not have.

    Example::

      >>> OpenSearchConfig(field="sparse_vector").number
      (3, 3)
    """

    field: str = "rank_features"
    version: str | None = None
    vector_name: str = "text_sparse"
    text_name: str | None = None
    shards: int | None = None
    replicas: int | None = None
    two_phase: TwoPhase | None = None
    seismic: Mapping[str, int | float] = dataclasses.field(default_factory=dict)

    @property
    def number(self) -> tuple[int, int]:
        """Major and minor number of the version."""
        return version_number(self.version or _DEFAULT_VERSION[self.field])

    def __post_init__(self) -> None:
        if self.field not in FIELDS:
            raise InputError("field", repr(self.field), "one of " + ", ".join(FIELDS))
        for name in ("shards", "replicas"):
            count = getattr(self, name)
            if count is not None and count < (name == "shards"):
                raise InputError(name, str(count), "a positive number")
        for field in (self.vector_name, self.text_name):
            if field is not None and (not re.fullmatch(r"\w+", field) or field == "id"):
                raise InputError("field's name", repr(field), "letters, digits and _")
        if self.text_name == self.vector_name:
            raise InputError("text_name", repr(self.text_name), "another name")
        self._check_version(self.number)
        self._check_seismic()

    def _check_version(self, number: tuple[int, int]) -> None:
        if self.field == "sparse_vector":
            _need(number, _SPARSE_VECTOR, "a field of type sparse_vector")
            if self.two_phase is not None:
                raise InputError(
                    "two_phase", "given for a field of type sparse_vector",
                    "rank_features", "OpenSearch refuses the two together",
                )  # fmt: skip
        if self.two_phase is not None:
            _need(number, _TWO_PHASE, "the two-phase processor")
            if self.two_phase.prune_type != "max_ratio":
                _need(number, PRUNE_TYPE, f"prune_type {self.two_phase.prune_type!r}")

    def _check_seismic(self) -> None:
        if self.seismic and self.field != "sparse_vector":
            raise InputError("seismic", f"given for a field {self.field}", "no such")
        for name, value in self.seismic.items():
            if name not in SEISMIC:
                raise InputError("seismic", repr(name), "one of " + ", ".join(SEISMIC))
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"seismic {name}", str(value), "a positive number")


def _need(number: tuple[int, int], least: tuple[int, int], what: str) -> None:
    if number < least:
        raise InputError(
            "version", f"{what} in OpenSearch {number[0]}.{number[1]}",
            f"{least[0]}.{least[1]} or newer",
        )  # fmt: skip


def check_name(name: str) -> None:
    """Refuses what OpenSearch does not take as the name of an index.

    Raises:
      InputError: such a name.
    """
    if not _NAME.fullmatch(name) or len(name) > 255 or name in (".", ".."):
        raise InputError(
            "name", repr(name), "lower-case letters, digits, '-', '_' and '.', the "
            "first a letter or a digit",
        )  # fmt: skip
