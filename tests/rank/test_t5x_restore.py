"""What a training begins with: everything, a fresh optimizer, or a one-line error."""

import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.rank.t5x_restore import begin_from


def spec(*shape):
    """A leaf of T5X's native layout: what TensorStore reads it by."""
    return {"driver": "zarr", "kvstore": {}, "metadata": {"shape": list(shape)}}


MODEL = {
    "target": {"encoder": {"scale": np.zeros(4)}, "decoder": {"scale": np.zeros(4)}},
    "state": {"step": 0, "param_states": {"encoder": {"v": 0}, "decoder": {"v": 0}}},
}
ENC = {
    "target": {"encoder": {"scale": np.zeros(4)}, "score_head": {"bias": np.zeros(1)}},
    "state": {"step": 0, "param_states": {"encoder": {"v": 0}, "score_head": {"v": 0}}},
}
STORED = {
    "target": {"encoder": {"scale": spec(4)}, "decoder": {"scale": spec(4)}},
    "state": {"step": 9, "param_states": {"encoder": {"v": 1}, "decoder": {"v": 1}}},
}


def test_whole_checkpoint_is_kept():
    assert begin_from(STORED, MODEL) == STORED


def test_without_slots_the_step_begins_anew():
    bare = {"target": STORED["target"], "state": {"step": 9}}
    assert begin_from(bare, MODEL) == {"target": STORED["target"]}
    assert begin_from({"target": STORED["target"]}, MODEL) == {
        "target": STORED["target"]
    }


def test_enc_leaves_the_decoder_and_has_a_fresh_head():
    found = begin_from(STORED, ENC)
    assert found == {"target": {"encoder": {"scale": spec(4)}}}


def test_resuming_keeps_everything():
    assert begin_from({"target": {}}, MODEL, is_resuming=True) == {"target": {}}


def test_another_architecture_prints_the_difference():
    other = {
        "target": {
            "encoder": {"scale": spec(8), "wi_0": spec(2)},
            "decoder": {"norm": spec(4)},
        }
    }
    with pytest.raises(InputError) as caught:
        begin_from(other, MODEL)
    assert str(caught.value).startswith(
        "INITIAL_CHECKPOINT_PATH: + decoder/norm; + encoder/wi_0; - decoder/scale; "
        "≠ encoder/scale (8,) for (4,); expected "
    )
