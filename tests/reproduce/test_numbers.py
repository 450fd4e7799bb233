"""Numbers as they stand in tables are read, and written in the same form."""

import pytest

from jaxir.reproduce.numbers import numbers_in


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (".9829 [.976, .989]", [0.9829]),
        ("**.9537** [.944, .963]", [0.9537]),
        ("0.6534† [0.617, 0.690]", [0.6534]),
        ("-.162 [-.182, -.142], p < .001", [-0.162]),
        ("+.008 [+.002, +.013], p .005", [0.008]),
        ("-.029 (97.0 %)", [-0.029, 0.97]),
        ("11 / 104 / 135", [11, 104, 135]),
        ("18.1 / 16.8 / 33.9 %", [0.181, 0.168, 0.339]),
        ("1,000", [1000]),
        ("131,384", [131384]),
        ("1.49; 1.47", [1.49, 1.47]),
        ("1.91, 1.94", [1.91, 1.94]),
        ("0.0016 to 0.0021", [0.0016, 0.0021]),
        ("1.7e-7", [1.7e-7]),
        ("`lax.top_k` 0.000218, numpy 0.000223", [0.000218, 0.000223]),
        ("1.83 (tokens saved: 1.78)", [1.83, 1.78]),
        ("nDCG@10 .9831", [0.9831]),
        ("`--prune_ratio 0.2` .971", [0.971]),
        ("5.6 MB", [5.6e6]),
        ("1,322 MiB", [1322 * 2**20]),
        ("0.4 ms", [0.0004]),
        ("none", []),
    ],
)
def test_values(text, values):
    found = numbers_in(text)
    assert [number.value for number in found] == pytest.approx(values, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [
        (".9829", 0.98126, ".9813"),
        ("0.98", 0.98126, "0.98"),
        ("+.173", 0.1, "+.100"),
        ("-.029", 0.1, "+.100"),
        ("18.3 %", 0.2, "20.0 %"),
        ("131,384", 2000.0, "2,000"),
        ("5.6 MB", 12.34e6, "12.3 MB"),
        ("1.7e-7", 2.51e-7, "2.5e-7"),
        (".9829", -0.00001, ".0000"),
        (".9829", 1.0, "1.0000"),
    ],
)
def test_another_value_in_the_same_form(text, value, written):
    assert numbers_in(text)[0].write(value) == written


def test_the_last_digit():
    steps = [number.step for number in numbers_in(".9829 18.3 % 131,384 1.7e-7")]
    assert steps == pytest.approx([1e-4, 1e-3, 1, 1e-8])
    assert numbers_in(".5")[0].write(0.25, sign=True) == "+.2"
