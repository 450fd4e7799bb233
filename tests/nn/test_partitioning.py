"""One table decides where parameters lie; eight simulated devices."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxir.errors import InputError
from jaxir.mesh import make_mesh
from jaxir.nn.partitioning import FULLY_SHARDED, sharding_rule


def shapes_of(**shapes):
    return {k: jax.ShapeDtypeStruct(v, "float32") for k, v in shapes.items()}


AXES = {
    "table": ("vocab", "embed"),
    "bias": ("heads", "relpos_buckets"),
    "scale": ("embed",),
}
SHAPES = shapes_of(table=(64, 8), bias=(3, 32), scale=(8,))


def test_tensor_parallel_splits_what_divides():
    mesh = make_mesh(8, model=4)
    placed = sharding_rule(AXES)(SHAPES, mesh)
    assert placed["table"].spec == P("model", None)
    assert placed["bias"].spec == P(None, None)  # three heads over four devices
    assert placed["scale"].spec == P(None)
    table = jax.device_put(np.zeros((64, 8), np.float32), placed["table"])
    assert table.addressable_shards[0].data.shape == (16, 8)


def test_fully_sharded_leaves_no_whole_parameter():
    placed = sharding_rule(AXES, FULLY_SHARDED)(SHAPES, make_mesh(8, model=4))
    assert placed["table"].spec == P("model", "data")
    assert placed["scale"].spec == P("data")


def test_a_mesh_axis_serves_once():
    rule = sharding_rule({"kernel": ("heads", "mlp")})
    placed = rule(shapes_of(kernel=(8, 8)), make_mesh(8, model=4))
    assert placed["kernel"].spec == P("model", None)


def test_unknown_names_and_ranks_are_refused():
    mesh = make_mesh(1)
    with pytest.raises(InputError, match=r"k: axis 'rows'; expected one of vocab"):
        sharding_rule({"k": ("rows",)})(shapes_of(k=(2,)), mesh)
    with pytest.raises(InputError, match=r"k: axes \('mlp',\) for shape \(2, 2\)"):
        sharding_rule({"k": ("mlp",)})(shapes_of(k=(2, 2)), mesh)
    with pytest.raises(InputError, match=r"axis 'mlp': split over 'rows'; .* data, mo"):
        sharding_rule({"k": ("mlp",)}, {"mlp": "rows"})(shapes_of(k=(2,)), mesh)
