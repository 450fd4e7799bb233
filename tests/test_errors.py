"""The one exception for users: one line, whatever stands in its parts."""

from jaxir.errors import InputError


def test_one_line_whatever_its_parts_hold():
    error = InputError("a\nb", "c\r\nd", "e\u2028f", "g\x0bh")
    assert str(error) == "a b: c d; expected e f; g h"


def test_empty_parts_are_left_out():
    assert str(InputError("run:3", "found", remedy="mend it")) == (
        "run:3: found; mend it"
    )
