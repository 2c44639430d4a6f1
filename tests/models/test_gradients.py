"""Closed-form gradients against autodiff of the plain formulas, in float64."""

import jax
import jax.numpy as jnp
import pytest

from models import gradients, products
from models.activations import ACTIVATIONS


def plain_layer(x, scale, bias):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + 1e-3) * scale + bias


def plain_rms(x, scale):
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-3) * scale


CASES = {
    "product": (
        lambda x, w: products.product("btd,dhk->bthk", x, w, "float64"),
        lambda x, w: jnp.einsum("btd,dhk->bthk", x, w),
        ((2, 5, 3), (3, 2, 4)),
    ),
    "product by a table": (
        lambda x, w: products.product("btd,vd->btv", x, w, "float64"),
        lambda x, w: jnp.einsum("btd,vd->btv", x, w),
        ((2, 5, 3), (7, 3)),
    ),
    "product of batches": (
        lambda x, w: products.product("bgrtk,bgsk->bgrts", x, w, "float64"),
        lambda x, w: jnp.einsum("bgrtk,bgsk->bgrts", x, w),
        ((2, 3, 2, 5, 4), (2, 3, 6, 4)),
    ),
    "bias": (gradients.add_bias, lambda y, b: y + b, ((2, 5, 3, 4), (3, 4))),
    "layer": (lambda *a: gradients.layer_norm(*a, 1e-3), plain_layer, ((2, 5, 8), (8,), (8,))),
    "rms": (lambda *a: gradients.rms_norm(*a, 1e-3), plain_rms, ((2, 5, 8), (8,))),
    "gelu": (ACTIVATIONS["gelu"], lambda x: jax.nn.gelu(x, approximate=False), ((50, 20),)),
}


@pytest.mark.parametrize("name", list(CASES))
def test_gradients_are_autodiffs(name):
    closed, plain, shapes = CASES[name]
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        inputs = [jax.random.normal(k, s, jnp.float64) + 0.3 for k, s in zip(keys, shapes)]
        weights = jax.random.normal(keys[3], plain(*inputs).shape, jnp.float64)
        loss = lambda f: lambda *a: (weights * jnp.sin(f(*a))).sum()
        places = tuple(range(len(inputs)))
        value, grads = jax.value_and_grad(loss(closed), places)(*inputs)
        expected, others = jax.value_and_grad(loss(plain), places)(*inputs)
        assert abs(value - expected) < 1e-12
        for a, b in zip(grads, others):
            assert a.dtype == jnp.float64 and float(jnp.abs(a - b).max()) < 1e-12


def test_low_operands_keep_the_types_around_them():
    """bfloat16 products in a float32 stream: float32 results and gradients, rounded operands."""
    x, w = (jax.random.normal(jax.random.key(i), (8, 8)) for i in (0, 1))
    run = lambda dtype: jax.value_and_grad(
        lambda x, w: (products.product("ab,bc->ac", x, w, dtype) ** 2).sum(), (0, 1)
    )(x, w)
    (low, grads), (full, exact) = run("bfloat16"), run("float32")
    assert all(g.dtype == jnp.float32 for g in grads)
    assert 0 < abs(low - full) < 0.02 * full
    for g, e in zip(grads, exact):
        assert 0 < float(jnp.abs(g - e).max()) < 0.05 * float(jnp.abs(e).max())


def test_row_sums_of_bfloat16_are_float32():
    x = jnp.full((64, 64, 2), 1.0, jnp.bfloat16)
    assert gradients.sum_rows(x, 1).dtype == jnp.float32
    assert gradients.sum_rows(x, 1).tolist() == [4096.0, 4096.0]


def test_gelu_is_right_where_it_saturates_and_rounds_once():
    gelu, plain, _ = CASES["gelu"]
    far = jnp.array([-1e4, -100.0, -9.0, 0.0, 9.0, 100.0, 1e4])
    assert jnp.abs(gelu(far) - plain(far)).max() < 3e-6
    slope = jax.vmap(jax.grad(gelu))(far)
    assert jnp.abs(slope - jnp.array([0, 0, 0, 0.5, 1, 1, 1])).max() < 1e-6
    low = jax.random.normal(jax.random.key(0), (1000,), jnp.bfloat16)
    assert gelu(low).dtype == jax.grad(lambda x: gelu(x).sum())(low).dtype == low.dtype
    assert (gelu(low) == plain(low.astype(jnp.float32)).astype(low.dtype)).mean() > 0.99
