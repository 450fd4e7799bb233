"""The one exception that stands for a user's mistake.

Every other exception that leaves jaxir is a fault of ours: the command line turns
:class:`InputError` into one line and exit code 2, and anything else into exit code 1.
"""

__all__ = ["InputError", "refuse_one"]


class InputError(ValueError):
    """Input that cannot be used: says where, what was found, and how to mend it.

    The text is one line, ``where: found; expected; remedy``.  Empty parts are left out.

    Args:
      where: the place: ``file:line``, a directory, or an argument's name.
      found: what stands there.
      expected: what should stand there.
      remedy: what to do about it.

    Example::

      >>> str(InputError("run.trec:3", "score 'nan'", "a finite number", "rescore it"))
      "run.trec:3: score 'nan'; expected a finite number; rescore it"
    """

    def __init__(
        self, where: object, found: str, expected: str = "", remedy: str = ""
    ) -> None:
        parts = [found]
        if expected:
            parts.append(f"expected {expected}")
        if remedy:
            parts.append(remedy)
        super().__init__(" ".join(f"{where}: {'; '.join(parts)}".splitlines()))


def refuse_one(where: str, values: object, what: str = "text") -> None:
    """Refuses a string where several are expected: it would be taken letter by letter.

    Raises:
      InputError: ``values`` is a string.
    """
    if isinstance(values, str):
        raise InputError(where, f"one {what}", f"a list of {what}s", f"write [{what}]")
