"""Numbers as a person writes them in a table: ``.9829 [.976, .989]``, ``5.6 MB``."""

import re
from typing import NamedTuple

__all__ = ["Number", "numbers_in"]

_UNITS = {"%": 0.01, "MB": 1e6, "KB": 1e3, "MiB": 2**20, "ms": 1e-3}
# A number; after the last of several that are parted by slashes, their unit.
_NUMBER = re.compile(
    r"(?<![\w@.])[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d*\.?\d+)(?:e[-+]?\d+)?"
)
_UNIT = re.compile(rf"(?:\s*/\s*{_NUMBER.pattern})*\s?({'|'.join(_UNITS)})(?!\w)")
# Intervals, p values and code stand beside a number and are not measured again.
_ASIDE = re.compile(r"`[^`]*`|\[[^\]]*\]|,?\s*\bp\s*<?\s*\.?\d+")


class Number(NamedTuple):
    """A number as it is written.

    Attributes:
      value: in units of one: ``18.3 %`` is 0.183, ``5.6 MB`` is 5.6e6.
      step: what one unit of its last digit is worth.
      scale: what one of its unit is worth: 0.01 for ``%``.
      unit: ``%``, ``MB``, … or nothing.
      decimals: digits after the point; of the factor where it is written with ``e``.
      zero: whether a zero stands before the point.
      power: the exponent of ten, where it is written with ``e``.
      signed: whether its sign is written even where it is a plus.
    """

    value: float
    step: float
    scale: float
    unit: str
    decimals: int
    zero: bool
    power: int | None
    signed: bool

    def write(self, value: float, *, sign: bool = False) -> str:
        """Another value in the same form; with ``sign``, with its sign in any case.

        Example::

          >>> numbers_in("18.3 %")[0].write(0.2)
          '20.0 %'
          >>> numbers_in("1.7e-7")[0].write(2.5e-7)
          '2.5e-7'
        """
        scaled = value / self.scale
        if self.power is not None:
            scaled /= 10.0**self.power
        form = f",.{self.decimals}f"
        text = f"{scaled:{'+' if sign or self.signed else ''}{form}}"
        if not float(text.replace(",", "")):  # a zero has no sign
            text = f"{0:{form}}"
        if not self.zero and abs(scaled) < 1:
            text = text.replace("0.", ".", 1)
        if self.power is not None:
            text += f"e{self.power}"
        return f"{text} {self.unit}".rstrip()


def numbers_in(text: str) -> tuple[Number, ...]:
    """The numbers of a cell, without its intervals and p values.

    Example::

      >>> [number.value for number in numbers_in("**.9829** [.976, .989], p < .001")]
      [0.9829]
      >>> [round(number.value, 6) for number in numbers_in("18.1 / 16.8 %; 1,025")]
      [0.181, 0.168, 1025.0]
    """
    text = _ASIDE.sub("", text)
    found = []
    for match in _NUMBER.finditer(text):
        digits, _, exponent = match[0].replace(",", "").partition("e")
        unit = _UNIT.match(text, match.end())
        power = int(exponent) if exponent else None
        decimals = len(digits.partition(".")[2])
        scale = _UNITS[unit[1]] if unit else 1.0
        whole = scale * 10.0 ** (power or 0)
        value = float(match[0].replace(",", "")) * scale
        found.append(
            Number(
                value, whole * 10.0**-decimals, scale, unit[1] if unit else "",
                decimals, not re.match(r"[-+]?\.", digits), power, digits[0] in "+-",
            )
        )  # fmt: skip
    return tuple(found)
