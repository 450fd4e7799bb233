"""The lengths of batches."""

from jaxir.data.batch_texts import few_lengths


def test_few_lengths():
    assert few_lengths(256, 4) == (64, 128, 192, 256)
    assert few_lengths(32, 1) == (32,)
    assert few_lengths(8, 4) == (8,)
