"""A request's body, read strictly: names, types and sizes, or an error in one line.

Nothing that was sent is ignored: an unknown name is refused with those that are known,
and so is a value of another type, whatever could be made of it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

__all__ = ["Fields", "Limits", "ServiceError", "read_body", "wrong"]


class ServiceError(Exception):
    """A request that is not answered as it was meant.

    Args:
      status: of HTTP.
      message: one line for a person.
      kind: ``type`` of the answer.
      param: what in the request it is about.
      headers: of the answer.

    Example::

      >>> ServiceError(404, "no such index", param="index").body()["error"]["param"]
      'index'
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(" ".join(message.split()))
        self.status, self.kind, self.param = status, kind, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, dict[str, str | None]]:
        """What is answered, as plain JSON."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param}}


class Limits(NamedTuple):
    """How much a request may ask for, and how many may wait.

    Attributes:
      body_bytes: of a request.
      text_chars: characters of one text.
      queries: of a search.
      documents: of a reranking, and of a search to rerank.
      inputs: texts to embed.
      k: results of a query.
      queue: requests that wait or are worked on; more are answered 429.
      deadline: seconds in which a request is answered, or with 504.
      batch: the most queries of one call.
    """

    body_bytes: int = 2 * 2**20
    text_chars: int = 32_768
    queries: int = 64
    documents: int = 1_000
    inputs: int = 256
    k: int = 1_000
    queue: int = 256
    deadline: float = 30.0
    batch: int = 64


def wrong(param: str | None, found: str, expected: str) -> NoReturn:
    """Refuses what was sent.

    Args:
      param: the field, or None for the body.
      found: what stands there.
      expected: what should stand there.

    Raises:
      ServiceError: 400.
    """
    where = "the body" if param is None else param
    raise ServiceError(400, f"{where}: {found}; expected {expected}", param=param)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ: of two alike one would be ignored."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            wrong(None, f"the name {_shown(name)} twice", "each name once")
        found[name] = value
    return found


def read_body(body: bytes, known: Sequence[str]) -> dict[str, Any]:
    """The JSON object that a body is.

    Args:
      body: what was sent.
      known: names that may stand in it.

    Raises:
      ServiceError: not UTF-8, not JSON (NaN is none), not an object, a name twice, or
        one that is not known.

    Example::

      >>> read_body(b'{"query": "rain"}', ["query"])
      {'query': 'rain'}
    """
    try:
        found = json.loads(
            body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_object
        )
    except UnicodeDecodeError as error:
        wrong(None, f"byte {error.start} is not UTF-8", "JSON in UTF-8")
    except RecursionError:
        wrong(None, "nested too deeply", "a JSON object")
    except ValueError as error:
        wrong(None, f"not JSON ({error})", "a JSON object")
    if not isinstance(found, dict):
        wrong(None, _kind(found), "a JSON object")
    for name in found:
        if name not in known:
            shown = _shown(name)
            wrong(None, f"an unknown name {shown}", "one of " + ", ".join(known))
    return found


def _kind(value: Any) -> str:
    """A value's type in JSON's words."""
    kinds = {
        dict: "an object", list: "an array", str: "a string", bool: "a boolean",
        int: "a number", float: "a number", type(None): "null",
    }  # fmt: skip
    return kinds[type(value)]


def _shown(text: str) -> str:
    """A text of the client's within an error: short, and in ASCII."""
    return ascii(text if len(text) <= 60 else text[:60] + "...")


class Fields:
    """A body's fields, each read as a type.

    Args:
      fields: of :func:`read_body`.
      limits: of the service.
    """

    def __init__(self, fields: Mapping[str, Any], limits: Limits) -> None:
        self._fields, self._limits = fields, limits

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def holds(self, name: str, kind: type) -> bool:
        """Whether a field is given, and of a type."""
        return isinstance(self._fields.get(name), kind)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        if name not in self:
            return default
        value = self._fields[name]
        if not isinstance(value, bool):
            wrong(name, _kind(value), "true or false")
        return value

    def count(self, name: str, default: int, most: int) -> int:
        """A whole number from 1 to ``most``."""
        if name not in self:
            return default
        value = self._fields[name]
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # to JSON the same number
        if not isinstance(value, int) or isinstance(value, bool):
            wrong(name, _kind(value), f"a whole number from 1 to {most}")
        if not 1 <= value <= most:
            found = str(value) if abs(value) < 10**12 else "a number out of range"
            wrong(name, found, f"1 to {most}")
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """One of a few words, the first by default."""
        if name not in self:
            return choices[0]
        value = self._fields[name]
        if not isinstance(value, str) or value not in choices:
            found = _shown(value) if isinstance(value, str) else _kind(value)
            wrong(name, found, " or ".join(choices))
        return value

    def name(self, name: str, default: str, known: Sequence[str]) -> str:
        """The name of something that is here.

        Raises:
          ServiceError: 404, it is not.
        """
        if name not in self:
            return default
        value, listed = self._fields[name], ", ".join(known) or "none"
        if not isinstance(value, str):
            wrong(name, _kind(value), f"one of {listed}")
        if value not in known:
            raise ServiceError(
                404, f"{name}: no {_shown(value)} here; expected one of {listed}",
                kind="not_found_error", param=name,
            )  # fmt: skip
        return value

    def text(self, name: str) -> str:
        """A text that must be given."""
        if name not in self:
            wrong(name, "missing", "a string")
        return self._text(name, self._fields[name])

    def texts(
        self, name: str, most: int, read: Callable[[str, Any], str] | None = None
    ) -> list[str]:
        """Texts, 1 to ``most`` of them; ``read`` makes a text of each value."""
        values = self._fields[name]
        if not isinstance(values, list):
            wrong(name, _kind(values), "an array")
        if not 1 <= len(values) <= most:
            wrong(name, f"{len(values)} of them", f"1 to {most}")
        read = read or self._text
        return [read(f"{name}[{i}]", value) for i, value in enumerate(values)]

    def document(self, name: str, value: Any) -> str:
        """A text, or an object with ``text`` and perhaps ``title``, as one text."""
        if not isinstance(value, dict):
            return self._text(name, value)
        for key in value:
            if key not in ("text", "title"):
                wrong(name, f"an unknown name {_shown(key)}", "text or title")
        if "text" not in value:
            wrong(f"{name}.text", "missing", "a string")
        text = self._text(f"{name}.text", value["text"])
        if "title" not in value:
            return text
        return f"{self._text(f'{name}.title', value['title'])} {text}".strip()

    def _text(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            wrong(name, _kind(value), "a string")
        most = self._limits.text_chars
        if len(value) > most:
            wrong(name, f"{len(value)} characters", f"at most {most}")
        try:
            value.encode()
        except UnicodeEncodeError:
            wrong(name, "half of a surrogate pair", "characters of Unicode")
        return value
