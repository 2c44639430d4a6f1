"""Residual nets: batch statistics, feature maps, the forms that options choose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.build import shapes
from models.convolution import max_pool
from tests.models import conv


@functools.cache
def made(**changes):
    o, module, variables = conv.model("resnet", **changes)
    return o, module, variables, jax.jit(module.apply, static_argnames=("mutable",))


def test_batch_statistics_move_iff_they_are_mutable():
    _, _, variables, apply = made()
    batch = conv.images()
    out, new = apply(variables, batch, mutable=("batch_stats",))
    still = apply(variables, batch)
    norm = new["batch_stats"]["stem"]["0"]["norm"]
    assert int(norm["count"]) == 1 and float(jnp.abs(norm["mean"]).max()) > 1e-3
    assert not np.allclose(out["scores"], still["scores"])
    again = apply({**variables, **new}, batch)
    assert not np.allclose(again["scores"], still["scores"])


def test_a_row_does_not_see_the_others_without_batch_statistics_of_its_own():
    _, _, variables, apply = made()
    batch = conv.images()
    other = {"images": batch["images"].at[1:].multiply(3.0)}
    a, b = apply(variables, batch)["scores"], apply(variables, other)["scores"]
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5, atol=1e-6)
    a, b = (apply(variables, x, mutable=("batch_stats",))[0]["scores"] for x in (batch, other))
    assert not np.allclose(a[0], b[0], atol=1e-3)


def test_layer_normalisation_has_no_statistics():
    o, module, variables = conv.model("resnet", norm="layer")
    assert set(variables) == {"params"}
    assert shapes(o) == jax.eval_shape(lambda: conv.model("resnet")[2])["params"]


def test_feature_maps_come_by_stage():
    _, module, variables, _ = made()
    _, found = jax.eval_shape(
        lambda: module.apply(variables, conv.images(), mutable=["hidden"], method="features")
    )
    sizes = {name: value.shape for name, value in found["hidden"].items() if name != "blocks"}
    assert sizes == {"stem": (4, 6, 6, 6), "stage1": (4, 6, 6, 8), "stage2": (4, 3, 3, 12)}
    assert [block.shape[-1] for block in found["hidden"]["blocks"]] == [8, 8, 12]


def test_max_pool_is_the_windowed_maximum_and_its_gradient_goes_to_the_first():
    x = jnp.round(jax.random.normal(jax.random.key(0), (2, 7, 10, 3)) * 2)  # with many ties
    window = lambda x: jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    )
    np.testing.assert_array_equal(max_pool(x), window(x))
    weights = jax.random.normal(jax.random.key(1), window(x).shape)
    a, b = (jax.grad(lambda x: jnp.sum(f(x) * weights))(x) for f in (max_pool, window))  # noqa: B023
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    "change,words",
    [
        (dict(widths=(8,)), ("widths", "(8,)", "depths")),
        (dict(depths=()), ("depths", "()")),
        (dict(stem=()), ("stem",)),
        (dict(norm="rms"), ("rms", "batch")),
        (dict(bottleneck=True, widths=(8, 3)), ("widths", "4")),
        (dict(stem_kernel=4), ("odd", "4")),
        (dict(norm_decay=1.5), ("norm_decay", "1.5")),
        (dict(strides=(1, 0)), ("strides", "positive")),
        (dict(head="lm"), ("head", "classify")),
        (dict(drop_path=1.0), ("drop_path",)),
    ],
)
def test_wrong_options_are_named(change, words):
    with pytest.raises(ValueError) as error:
        conv.options("resnet", **change)
    assert all(word in str(error.value) for word in words)


def test_images_of_another_shape_are_refused():
    _, module, variables, _ = made()
    with pytest.raises(ValueError, match=r"\(4, 24, 24, 1\).*3"):
        module.apply(variables, {"images": jnp.zeros((4, 24, 24, 1))})
