"""ViT, DeiT, BEiT and the textbook's ViT: what must be true whatever the weights are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import families, grids, transformer
from models.build import build, example
from models.dropout import drop_rows
from models.masks import Mask
from models.options import Options
from models.pixels import pixel_sums
from tests.models import tiny

SIZES = {"vit": "ti16", "textbook": "textbook", "deit": "ti-distilled", "beit": "b", "mim": "b-mim"}
SHAPE = dict(layers=2, width=16, heads=2, image_size=8, image_width=12, patch=4)


def options(name: str, **changes) -> Options:
    family = {"textbook": "vit", "mim": "beit"}.get(name, name)
    more = {"vocab": 11} if name == "mim" else {"labels": 5}
    return Options.of(families.row(family, SIZES[name], **{**SHAPE, **more, **changes}))


def images(batch: int = 2, height: int = 8, width: int = 12, seed: int = 1):
    return jax.random.normal(jax.random.key(seed), (batch, height, width, 3))


def variables(o: Options):
    """Weights that are far from zero, so that errors show."""
    made = jax.jit(build(o).init)(jax.random.key(0), example(o))
    draw = lambda w, key: w + 0.3 * jax.random.normal(key, w.shape)
    leaves, tree = jax.tree.flatten(made)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(tree, [draw(w, k) for w, k in zip(leaves, keys, strict=True)])


@pytest.fixture(scope="module")
def made():
    """{name: (options, module, variables)} of every family, unrolled."""
    return {name: (o := options(name), build(o), variables(o)) for name in SIZES}


@pytest.mark.parametrize("name", ["textbook", "deit", "beit"])
def test_images_of_a_batch_do_not_see_each_other(made, name):
    o, module, values = made[name]
    x = images()
    score = lambda x: module.apply(values, {"images": x})["scores"][0].sum()
    grads = jax.jit(jax.grad(score))(x)
    assert np.all(grads[1] == 0) and np.abs(grads[0]).max() > 1e-4


def test_the_textbooks_layers_as_printed_mix_images_and_not_patches(made):
    """Without batch_first=True the listing's [B,N,D] is read as [N,B,D]."""
    o, _, values = made["textbook"]
    stack, state = transformer.blocks(o), {"params": values["params"]["blocks"]}
    x = jax.random.normal(jax.random.key(3), (2, 7, o.width))
    ctx = {"mask": Mask(causal=False)}

    def printed(x):
        out, _ = stack.apply(state, {"x": x.swapaxes(0, 1)}, transformer.layers(o), ctx)
        return out["x"].swapaxes(0, 1)[0, 3].sum()

    grads = jax.jit(jax.grad(printed))(x)
    assert np.abs(grads[1, 3]).max() > 1e-4
    assert np.all(np.delete(grads, 3, 1) == 0)


@pytest.mark.parametrize("name", ["deit", "beit"])
def test_scanned_layers_give_the_same_numbers_with_stochastic_depth(made, name):
    o = options(name, drop_path=0.5, drop_resid=0.2)
    assert tiny.forms_agree(o, made[name][2], images())


def test_stochastic_depth_is_on_iff_there_is_a_key(made):
    o = options("vit", drop_path=0.9)
    module, values, x = build(o), made["vit"][2], images(4)
    run = jax.jit(lambda key: module.apply(values, {"images": x}, rngs={"dropout": key})["scores"])
    plain = tiny.apply(module)(values, {"images": x})["scores"]
    reference = tiny.apply(made["vit"][1])(values, {"images": x})["scores"]
    assert o.dropout and tiny.close(plain, reference)
    assert not tiny.close(run(jax.random.key(0)), reference, 1e-3)
    assert not tiny.close(run(jax.random.key(0)), run(jax.random.key(1)), 1e-3)


def test_rows_are_left_out_whole_at_the_rate_of_their_layer():
    x = jnp.ones((4000, 2, 3))
    y = np.asarray(drop_rows(x, jnp.float32(0.25), jax.random.key(0)))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert np.all(y.reshape(4000, -1) == y[:, :1, 0])
    assert abs((y[:, 0, 0] == 0).mean() - 0.25) < 0.03
    rates = transformer.layers(options("vit", layers=5, drop_path=0.4))["path"]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4], rtol=1e-6)


@pytest.mark.parametrize("name", ["deit", "mim"])
def test_pixels_under_the_mask_are_not_seen(name):
    o = options(name, mask_token=True)
    module, values, x = build(o), variables(o), images()
    masked = jnp.zeros((2, 6), int).at[:, 4].set(1)  # the second row's middle patch
    other = x.at[:, 4:, 4:8].add(1.0)
    run = jax.jit(
        lambda x: module.apply(values, {"images": x, "masked": masked}, method="features")
    )
    seen = jax.jit(lambda x: module.apply(values, {"images": x}, method="features"))
    assert np.array_equal(run(x)[0], run(other)[0])
    assert not tiny.close(seen(x)[0], seen(other)[0], 1e-3)
    assert not tiny.close(seen(x)[0], run(x)[0], 1e-3)


def test_feature_maps_are_the_states_behind_the_blocks(made):
    o, module, values = made["deit"]
    batch = {"images": images()}
    run = tiny.apply(module)
    (x, _), collected = run(values, batch, method="features", mutable=("maps", "hidden"))
    maps = jax.jit(lambda: module.apply(values, batch, (0, 1), method="feature_maps"))()
    assert [m.shape for m in maps] == [(2, 2, 3, 16)] * 2
    assert tiny.close(maps[1].reshape(2, 6, 16), collected["hidden"]["blocks"][2][:, 2:])
    weights = collected["maps"]["attn"]
    assert weights.shape == (2, 2, 2, 8, 8) and tiny.close(weights.sum(-1), jnp.ones((2, 2, 2, 8)))
    with pytest.raises(ValueError, match="no block 2"):
        module.apply(values, batch, (2,), method="feature_maps")


def test_another_size_reads_resized_tables_and_the_same_size_the_table_itself(made):
    for name, shape in (("vit", (16, 7)), ("beit", (9, 20))):
        o, module, values = made[name]
        out = tiny.apply(module)(values, {"images": images(1, *shape)})["scores"]
        assert out.shape == (1, 5) and np.isfinite(out).all()
    table = jax.random.normal(jax.random.key(0), (4, 5, 3))
    for method in ("bicubic", "antialias", "linear"):
        assert grids.resize(table, (4, 5), method) is table
        for size in (4, 5):
            same = grids.matrix(size, size, method)
            np.testing.assert_allclose(same, np.eye(size), atol=1e-7)
        for new in (3, 9):
            wide = grids.matrix(5, new, method)
            np.testing.assert_allclose(wide.sum(1), 1, atol=1e-6)
            np.testing.assert_allclose(wide, wide[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("new", [4, 7, 29])
def test_antialiased_resizing_is_pillows(new):
    image = pytest.importorskip("PIL.Image")
    table = np.random.default_rng(0).standard_normal((13, 13)).astype(np.float32)
    theirs = np.asarray(image.fromarray(table).resize((new, new), image.Resampling.BICUBIC))
    ours = grids.resize(jnp.asarray(table)[..., None], (new, new), "antialias")[..., 0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_relative_biases_are_those_of_the_distances():
    """Against the table's definition, pair by pair, on a grid that is not square."""
    o = options("beit", heads=2)
    module = grids.Relative(o, (2, 3), 1)
    values = module.init(jax.random.key(0), (2, 3))
    table = jax.random.normal(jax.random.key(1), values["params"]["embedding"].shape)
    bias = module.apply({"params": {"embedding": table}}, (2, 3))[0]
    assert table.shape == (3 * 5 + 3, 2) and bias.shape == (2, 7, 7)
    places = [(i // 3, i % 3) for i in range(6)]
    for q, (row, column) in enumerate(places):
        for k, (below, right) in enumerate(places):
            at = (row - below + 1) * 5 + column - right + 2
            assert np.array_equal(bias[:, q + 1, k + 1], table[at])
        assert np.array_equal(bias[:, 0, q + 1], table[15])
        assert np.array_equal(bias[:, q + 1, 0], table[16])
    assert np.array_equal(bias[:, 0, 0], table[17])


def test_sines_tell_rows_from_columns():
    table = grids.sines((3, 4), 8).reshape(3, 4, 8)
    assert np.array_equal(table[0, :, :4], table[2, :, :4])
    assert np.array_equal(table[:, 0, 4:], table[:, 3, 4:])
    np.testing.assert_allclose(
        table[0, 2, :4], [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)], atol=1e-6
    )
    o = options("vit", positions="sinusoidal_2d", cls_token=False, pool="mean", registers=1)
    values = variables(o)
    assert "positions" not in values["params"]["embed"]
    assert tiny.apply(build(o))(values, {"images": images()})["scores"].shape == (2, 5)


def test_the_pixel_head_gives_images_and_its_loss_counts_masked_pixels():
    o = options("vit", head="pixels", mask_token=True)
    module, values, x = build(o), variables(o), images()
    masked = jnp.zeros((2, 6), int).at[0, 1].set(1)
    made = tiny.apply(module)(values, {"images": x, "masked": masked})["pixels"]
    assert made.shape == x.shape
    total, count = pixel_sums(x, made, masked, o.patch_sides)
    assert count == 16
    np.testing.assert_allclose(total, np.abs(x - made)[0, :4, 4:8].sum(), rtol=1e-5)
    with pytest.raises(ValueError, match="model.stride"):
        pixel_sums(x, made[:, :4], masked, o.patch_sides)


@pytest.mark.parametrize(
    "batch,words",
    [
        ({"images": jnp.zeros((1, 8, 12, 1))}, "channels last"),
        ({"images": jnp.zeros((1, 3, 12, 3))}, "no patch"),
        ({"images": jnp.zeros((1, 8, 12, 3)), "masked": jnp.zeros((1, 6))}, "mask_token"),
    ],
)
def test_images_that_cannot_be_read_are_named(made, batch, words):
    _, module, values = made["vit"]
    with pytest.raises(ValueError, match=words):
        module.apply(values, batch)


@pytest.mark.parametrize(
    "changes,words",
    [
        (dict(positions="rotary"), "positions"),
        (dict(causal=True), "causal"),
        (dict(image_size=3), "patches"),
        (dict(head="distilled"), "dist_token"),
        (dict(cls_token=False), "pool"),
        (dict(relative_layers=True, registers=2), "one token"),
        (dict(depths=(1, 1)), "depths"),
        (dict(head="lm"), "heads of a vit"),
        (dict(drop_path=1.0), "drop_path"),
    ],
)
def test_options_that_contradict_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        options("vit", **changes)


@pytest.mark.parametrize(
    ("name", "changes", "read"),
    [("textbook", {}, 1), ("vit", {}, 1), ("deit", {}, 2), ("beit", {"pool": "first"}, 1),
     ("beit", {}, 0), ("vit", {"scan": True}, 1), ("mim", {}, 0)],
)  # fmt: skip
def test_the_states_that_scores_read_are_those_among_all(name, changes, read):
    o = options(name, **changes)
    model, given = build(o), {"images": images()}
    assert model.read == read
    params = variables(o)

    def loss(params, first):
        x, _ = model.apply(params, given, method="features", first=first)
        x = x[:, :read] if read else x
        return jnp.sum(jnp.sin(x)), x

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, whole), wanted = run(params, 0)
    (_, part), found = run(params, read)
    np.testing.assert_allclose(part, whole, atol=2e-5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_the_last_block_is_spared_the_patches_that_no_score_reads():
    o = options("vit")
    model, given = build(o), {"images": images()}
    params = variables(o)
    run = jax.jit(
        lambda p, first: model.apply(p, given, method="features", first=first)[0], static_argnums=1
    )
    cost = lambda first: run.lower(params, first).compile().cost_analysis()["flops"]
    rows = 2 * (run(params, 0).shape[1] - 1)
    block = rows * 2 * (2 * o.width * o.width + 2 * o.width * o.hidden)
    assert cost(0) - cost(1) > 0.9 * block
    with_maps, found = model.apply(params, given, method="features", first=1, mutable=["maps"])
    [maps] = jax.tree.leaves(found)
    assert with_maps[0].shape[1] == 1 and maps.shape[3] == rows // 2 + 1
