"""Depthwise convolutions as shifted sums: values and gradients of the grouped convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.depthwise import depthwise


@pytest.mark.parametrize(
    "shape,k,stride,edges",
    [
        ((2, 7, 9, 3), 3, 1, ((1, 1), (1, 1))),
        ((2, 8, 7, 3), 3, 2, ((0, 1), (1, 1))),
        ((2, 9, 8, 2), 5, 2, ((2, 2), (1, 2))),
        ((1, 7, 8, 2), 5, 2, ((1, 2), (2, 2))),
        ((1, 6, 5, 2), 5, 1, ((2, 2), (2, 2))),
        ((1, 10, 11, 2), 3, 3, ((0, 0), (1, 0))),
    ],
)
def test_values_and_gradients_are_the_grouped_convolutions(shape, k, stride, edges):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], (k, k, 1, shape[-1]))

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), edges, dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=shape[-1],
        )  # fmt: skip

    def both(f):
        y, back = jax.vjp(f, x, kernel)
        return y, *back(jax.random.normal(keys[2], y.shape))

    a = jax.jit(lambda: both(grouped))()
    b = jax.jit(lambda: both(lambda x, kernel: depthwise(x, kernel, stride, edges)))()
    for wanted, found in zip(a, b, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)


def test_half_precision_is_summed_in_single():
    x = 1 + jax.random.uniform(jax.random.key(0), (1, 6, 6, 2)).astype(jnp.bfloat16)
    kernel = jnp.ones((5, 5, 1, 2))
    y = depthwise(x, kernel, 1, ((2, 2), (2, 2)))
    wanted = depthwise(x.astype(jnp.float32), kernel, 1, ((2, 2), (2, 2)))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, wanted.astype(jnp.bfloat16))
