"""Depthwise convolutions of images [B,H,W,C]: each channel with a kernel of its own.

On CPU they are k*k shifted products that are added up, which XLA makes one loop of, and so are both
gradients; its own grouped convolution took 6 to 20 times as long for EfficientNet-B0's shapes and its
gradients 9 to 15 times. Elsewhere they are that convolution.
"""

import functools

import jax
import jax.numpy as jnp


def depthwise(x, kernel, stride: int, edges: tuple):
    """x [B,H,W,C] by kernel [k,k,1,C] with `edges` ((top, bottom), (left, right)) of zeros, in x's dtype."""
    if jax.default_backend() == "cpu":
        return _shifted(x, kernel, stride, edges)
    y = jax.lax.conv_general_dilated(
        x, kernel.astype(x.dtype), (stride, stride), edges,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1],
    )  # fmt: skip
    return y.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shifted(x, kernel, stride, edges):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return _sum(_pad(x, edges), kernel[:, :, 0].astype(wide), stride).astype(x.dtype)


def _pad(x, edges):
    return jnp.pad(x, ((0, 0), *edges, (0, 0)))


def _views(x, k: int, stride: int, shape: tuple):
    """The k*k views of a padded x that the places of the kernel see, each of `shape` (rows, columns)."""
    high, wide = ((size - 1) * stride + 1 for size in shape)
    for i in range(k):
        for j in range(k):
            yield x[:, i : i + high : stride, j : j + wide : stride]


def _sum(x, kernel, stride):
    k = len(kernel)
    shape = tuple((side - k) // stride + 1 for side in x.shape[1:3])
    places = kernel.reshape(k * k, -1)
    parts = [view * place for view, place in zip(_views(x, k, stride, shape), places, strict=True)]
    return functools.reduce(jnp.add, parts)


def _forward(x, kernel, stride, edges):
    return _shifted(x, kernel, stride, edges), (x, kernel)


def _backward(stride, edges, saved, g):
    """The transposed convolution: g, spread by the stride, by the kernel turned around. For the kernel,
    k*k sums of products in one loop along the columns, then of what is left."""
    x, kernel = saved
    k, places = len(kernel), kernel[:, :, 0]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    around = []
    for (before, _), size, made in zip(edges, x.shape[1:3], g.shape[1:3], strict=True):
        first = k - 1 - before
        around.append((first, size + k - 1 - first - ((made - 1) * stride + 1), stride - 1))
    spread = jax.lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), *around, (0, 0, 0)))
    dx = _sum(spread, places[::-1, ::-1].astype(wide), 1).astype(x.dtype)
    parts = [view * g.astype(wide) for view in _views(_pad(x, edges), k, stride, g.shape[1:3])]
    zeros = (jnp.zeros((), wide),) * len(parts)
    sums = jax.lax.reduce(tuple(parts), zeros, lambda a, b: tuple(map(jnp.add, a, b)), (2,))
    dkernel = jnp.stack([jnp.sum(part, (0, 1)) for part in sums])
    return dx, dkernel.reshape(kernel.shape).astype(kernel.dtype)


_shifted.defvjp(_forward, _backward)
