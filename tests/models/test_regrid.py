"""Tables brought to another grid: what the model does on the way, once and for all."""

import jax
import numpy as np
import pytest

from models import families, regrid
from models.build import build, example
from models.grids import resize
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
    for known in (None, old):
        same = regrid.fit(forms.flat(params), shapes(old), old, known)
        assert all(same[name] is x for name, x in forms.flat(params).items())


def test_a_grid_that_is_no_square_is_refused():
    o = options("vit", "ti16", 12)
    given = {"embed/positions/embedding": np.zeros((8, 16), np.float32)}
    with pytest.raises(ValueError, match="8 rows: not those of a square grid and 1 for tokens"):
        regrid.fit(given, {"embed/positions/embedding": (26, 16)}, o)


def test_a_distillation_token_begins_beside_cls_and_leaves_with_its_row():
    plain, distilled = options("deit", "ti", 12), options("deit", "ti-distilled", 20)
    name, rng = regrid.POSITIONS, np.random.default_rng(0)
    table = rng.normal(size=(1 + 9, 16)).astype(np.float32)
    made = regrid.fit({name: table}, {name: (2 + 25, 16)}, distilled, plain)[name]
    np.testing.assert_array_equal(made[:2], table[[0, 0]])
    resized = regrid.fit({name: table}, {name: (1 + 25, 16)}, options("deit", "ti", 20), plain)
    np.testing.assert_array_equal(made[2:], resized[name][1:])
    table = rng.normal(size=(2 + 9, 16)).astype(np.float32)
    before = options("deit", "ti-distilled", 12)
    made = regrid.fit({name: table}, {name: (1 + 9, 16)}, plain, before)[name]
    np.testing.assert_array_equal(made, table[[0, *range(2, 11)]])
    bare = options("vit", "ti16", 12).replace(cls_token=False, pool="mean")
    with pytest.raises(ValueError, match="no row for the token cls"):
        regrid.fit({name: table[2:]}, {name: (1 + 9, 16)}, plain, bare)


def test_grids_are_told_apart_by_their_sides_not_their_rows():
    square = options("vit", "ti16", 16)
    wide = square.replace(image_size=8, image_width=32)
    name = regrid.POSITIONS
    table = np.random.default_rng(0).normal(size=(17, 16)).astype(np.float32)
    made = regrid.fit({name: table}, {name: (17, 16)}, square, wide)[name]
    wanted = resize(table[1:].reshape(2, 8, -1), (4, 4), square.resize)
    np.testing.assert_array_equal(made, np.concatenate([table[:1], wanted.reshape(16, -1)]))
    square, name = options("beit", "b", 16), "blocks/0/attn/relative/embedding"
    wide = square.replace(image_size=8, image_width=32)
    table = np.random.default_rng(0).normal(size=(3 * 15 + 3, 2)).astype(np.float32)
    made = regrid.fit({name: table}, {name: (7 * 7 + 3, 2)}, square, wide)[name]
    wanted = resize(table[:-3].reshape(3, 15, -1), (7, 7), "linear")
    np.testing.assert_array_equal(made, np.concatenate([wanted.reshape(49, -1), table[-3:]]))
