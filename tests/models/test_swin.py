"""Swin: windows, shifts, merging, and sizes that no window divides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import attention
from models import families, grids
from models.build import build, example
from models.options import Options
from models.windows import Windows
from tests.models import tiny

SHAPE = dict(
    layers=3, width=8, heads=2, depths=(2, 1), stage_heads=(2, 4), side=3, patch=2, image_size=12,
    labels=5,
)  # fmt: skip


def options(**changes) -> Options:
    return Options.of(families.row("swin", "t", **{**SHAPE, **changes}))


def images(batch: int = 2, height: int = 12, width: int = 12, seed: int = 1):
    return jax.random.normal(jax.random.key(seed), (batch, height, width, 3))


@pytest.fixture(scope="module")
def made():
    o = options()
    module = build(o)
    values = jax.jit(module.init)(jax.random.key(0), example(o))
    return o, module, jax.tree.map(lambda w: w * 8 if w.ndim > 1 else w, values)


@pytest.mark.parametrize("windowing", ["square", "axes"])
@pytest.mark.parametrize("grid", [(6, 9), (7, 8), (3, 6), (2, 2)])
@pytest.mark.parametrize("kind", ["global", "shifted"])
def test_joining_undoes_splitting(windowing, grid, kind):
    windows = Windows.of(options(windowing=windowing), grid)
    x = jax.random.normal(jax.random.key(0), (2, grid[0] * grid[1], 5))
    parts = windows.split(x, kind)
    size = windows.sides[0] * windows.sides[1]
    assert parts.shape == (2 * windows.counts[0] * windows.counts[1], size, 5)
    assert np.array_equal(windows.join(parts, kind), x)
    traced = jax.jit(lambda x, kind: windows.split(x, kind))(x, int(kind == "shifted"))
    assert np.array_equal(traced, parts)


def test_a_grid_no_larger_than_a_window_is_one_window_and_is_not_moved():
    square, axes = options(), options(windowing="axes", image_size=24)
    assert Windows.of(square, (3, 6)).shift == (0, 0) and Windows.of(square, (3, 6)).sides == (3, 3)
    assert Windows.of(square, (2, 6)).sides == (2, 2)
    assert Windows.of(axes, (3, 6)).shift == (0, 1) and Windows.of(axes, (2, 6)).sides == (2, 3)


def test_moved_windows_do_not_see_over_the_edge():
    """Tokens of one window see each other iff they were neighbours before the move."""
    windows = Windows.of(options(), (6, 6))
    places = np.stack(np.meshgrid(np.arange(6), np.arange(6), indexing="ij"), -1)
    x = jnp.asarray(places.reshape(1, 36, 2), jnp.float32)
    held = np.asarray(windows.split(x, "shifted"))  # where each token was
    far = np.abs(held[:, :, None] - held[:, None]).max(-1)
    allowed = np.asarray(windows.mask("shifted", 4).dense(9, 9))[:, 0]
    assert np.array_equal(allowed, far < 3) and not allowed.all()
    assert windows.mask("global", 4).dense(9, 9) is None


def test_maps_lie_on_the_grid_again(made):
    o, module, values = made
    collected = tiny.apply(module)(
        values, {"images": images()}, method="features", mutable=("maps", "hidden")
    )[1]
    maps = attention.unwindowed(o, collected["maps"]["attn"], (12, 12))
    assert [m.shape for m in maps] == [(2, 2, 6, 6, 6, 6)] * 2 + [(2, 4, 3, 3, 3, 3)]
    for block in maps:
        np.testing.assert_allclose(block.sum((-1, -2)), 1, atol=1e-5)
    seen = maps[1][0, 0] > 0  # the first stage's second block, whose windows are moved by one
    assert seen[0, 0].sum() == 1 and seen[0, 0, 0, 0]
    assert seen[2, 2].sum() == 9 and seen[2, 2, 1:4, 1:4].all()
    assert seen[5, 0].sum() == 2 and seen[5, 0, 4:, 0].all()
    stages = collected["hidden"]["stages"]
    assert [s.shape for s in stages] == [(2, 36, 8), (2, 9, 16), (2, 9, 16)]
    assert [b.shape for b in collected["hidden"]["blocks"]] == [(3, 2, 36, 8), (2, 2, 9, 16)]


def test_images_of_a_batch_do_not_see_each_other(made):
    _, module, values = made
    score = lambda x: module.apply(values, {"images": x})["scores"][0].sum()
    grads = jax.jit(jax.grad(score))(images())
    assert np.all(grads[1] == 0) and np.abs(grads[0]).max() > 1e-6


def test_scanned_blocks_give_the_same_numbers(made):
    o, _, values = made
    assert tiny.forms_agree(o.replace(drop_path=0.5), values, images(2, 10, 15))


@pytest.mark.parametrize(
    "windowing,size,first,second",
    [("square", (11, 17), (6, 9), (3, 5)), ("axes", (5, 31), (3, 16), (2, 8))],
)
def test_any_size_is_read_and_stages_give_their_maps(made, windowing, size, first, second):
    module, batch = build(made[0].replace(windowing=windowing)), {"images": images(1, *size)}
    maps = tiny.apply(module)(made[2], batch, method="feature_maps")
    assert [m.shape for m in maps] == [(1, *first, 8), (1, *second, 16)]
    assert all(np.isfinite(m).all() for m in maps)
    with pytest.raises(ValueError, match="no stage 2"):
        module.apply(made[2], batch, (2,), method="feature_maps")


def test_padding_is_seen_as_zeros_after_the_norm(made):
    """A window's maps on a padded grid leave something for the padding, none elsewhere."""
    o, module, values = made
    batch = {"images": images(1, 14, 12)}
    collected = tiny.apply(module)(values, batch, method="features", mutable=("maps",))[1]
    block = attention.unwindowed(o, collected["maps"]["attn"], (14, 12))[0]
    total = block.sum((-1, -2))
    np.testing.assert_allclose(total[:, :, :6], 1, atol=1e-5)
    assert (total[:, :, 6] < 0.99).all()


def test_a_smaller_window_takes_the_middle_of_the_table():
    o = options()
    module = grids.Relative(o, (3, 3), fixed=True)
    values = module.init(jax.random.key(0), (3, 3))
    whole = module.apply(values, (3, 3)).reshape(2, 3, 3, 3, 3)
    part = module.apply(values, (2, 3)).reshape(2, 2, 3, 2, 3)
    assert np.array_equal(part, whole[:, :2, :, :2])


def test_masked_patches_are_not_seen_and_come_back_as_pixels():
    o = options(head="pixels", mask_token=True, labels=0)
    module = build(o)
    x, masked = images(), jnp.zeros((2, 36), int).at[:, 7].set(1)  # row 1, column 1
    values = jax.jit(module.init)(jax.random.key(0), {"images": x, "masked": masked})
    run = jax.jit(lambda x: module.apply(values, {"images": x, "masked": masked})["pixels"])
    assert run(x).shape == x.shape
    assert np.array_equal(run(x), run(x.at[:, 2:4, 2:4].add(1.0)))


@pytest.mark.parametrize(
    "changes,words",
    [
        (dict(layers=5), "depths"),
        (dict(stage_heads=(2,)), "stage_heads"),
        (dict(stage_heads=(2, 3)), "does not divide"),
        (dict(depths=(2, 0)), "positive"),
        (dict(cls_token=True), "cls_token"),
        (dict(pattern=("local",)), "pattern"),
        (dict(ff=30), "mlp_ratio"),
        (dict(head="masked"), "heads of a swin"),
    ],
)
def test_options_that_contradict_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        options(**changes)
