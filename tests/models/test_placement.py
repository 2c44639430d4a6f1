"""Layout hints: nothing without a mesh, left out where they do not divide."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from models.placement import ROWS, place


def mesh(kind=AxisType.Auto):
    return jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(kind,) * 3)


def test_without_a_mesh_nothing_is_traced():
    text = str(jax.make_jaxpr(lambda x: place(x, ROWS))(jnp.ones((8, 4))))
    assert "sharding_constraint" not in text


@pytest.mark.parametrize(
    ("shape", "axes", "spec"),
    [
        ((8, 4), (ROWS,), P(ROWS)),
        ((8, 4), ("tensor", None), P("tensor")),
        ((6, 4), (ROWS, "tensor"), P(None, "tensor")),
        ((7, 3), ("tensor", "fsdp"), P()),
        ((8, 4), ("expert",), P()),
    ],
)
def test_axes_that_do_not_fit_are_left_out(shape, axes, spec):
    with jax.set_mesh(mesh()):
        out = jax.jit(lambda x: place(x, *axes))(jnp.ones(shape))
        assert out.sharding.is_equivalent_to(jax.NamedSharding(mesh(), spec), len(shape))


def test_inside_a_manual_region_it_is_left_alone():
    with jax.set_mesh(mesh()):
        doubled = jax.shard_map(lambda x: place(x, ROWS) * 2, in_specs=P(ROWS), out_specs=P(ROWS))
        assert jax.jit(doubled)(jnp.ones((8, 4))).sum() == 64
