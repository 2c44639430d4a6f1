"""Tables brought to another grid: what the model does on the way, once and for all."""

import jax
import numpy as np
import pytest

from models import families, regrid
from models.build import build, example
from models.options import Options
from train.core import forms

SIZE = dict(channels=1, patch=4, layers=1, width=16, heads=2, labels=3, drop_path=0.0)


def options(family, size, side):
    return Options.of(families.row(family, size, **SIZE, image_size=side))


def shapes(o):
    tree = jax.eval_shape(build(o).init, jax.random.key(0), example(o))["params"]
    return {name: x.shape for name, x in forms.flat(tree).items()}


@pytest.mark.parametrize(("family", "size"), [("deit", "ti-distilled"), ("beit", "b")])
def test_a_larger_picture_is_seen_as_before(family, size):
    old, new = options(family, size, 12), options(family, size, 20)
    params = jax.jit(build(old).init)(jax.random.key(1), example(old))["params"]
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape), params)
    batch = {"images": jax.random.normal(jax.random.key(3), (2, 20, 20, 1))}
    given = forms.nest(regrid.fit(forms.flat(params), shapes(new), new))
    assert {n: x.shape for n, x in forms.flat(given).items()} == shapes(new)
    before, after = (
        jax.jit(build(o).apply)({"params": p}, batch)["scores"]
        for o, p in ((old, params), (new, given))
    )
    np.testing.assert_allclose(before, after, atol=1e-5)
    same = regrid.fit(forms.flat(params), shapes(old), old)
    assert all(same[name] is x for name, x in forms.flat(params).items())


def test_a_grid_that_is_no_square_is_refused():
    o = options("vit", "ti16", 12)
    given = {"embed/positions/embedding": np.zeros((8, 16), np.float32)}
    with pytest.raises(ValueError, match="only square grids are resized"):
        regrid.fit(given, {"embed/positions/embedding": (26, 16)}, o)
