"""Closed-form gradients where autodiff's are slow or round elsewhere: biases and norms.

Values are the plain formulas'; the tests hold the gradients to autodiff's in float64. Sums over rows
are plain reductions in float32: products with a vector of ones were 12 % of a small model's step
slower with jax 0.10.2 on a Zen 4 CPU.
"""

import functools
import math

import jax
import jax.numpy as jnp

from models.placement import settle


def sum_rows(x, axes: int):
    """The sum over all but the last `axes` axes, in float32 or wider."""
    wide, own = jnp.promote_types(x.dtype, jnp.float32), x.shape[x.ndim - axes :]
    return jnp.sum(x.astype(wide).reshape(-1, math.prod(own)), 0).reshape(own)


@jax.custom_vjp
def add_bias(y, bias):
    """y [..., *bias.shape] + bias, in the dtype of y."""
    return y + bias.astype(y.dtype)


def _add_bias_forward(y, bias):
    return add_bias(y, bias), bias


def _add_bias_backward(bias, g):
    return g, sum_rows(g, bias.ndim).astype(bias.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


@jax.custom_vjp
def relu(x):
    """max(x, 0); the gradient is told from the result, so that x need not be kept."""
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = jnp.maximum(x, 0)
    return y, y


relu.defvjp(_relu_forward, lambda y, g: (jnp.where(y > 0, g, jnp.zeros((), g.dtype)),))


def _standard(x, eps, centre: bool):
    """(x - mean) / sqrt(variance + eps), or x / sqrt(mean square + eps), and 1 / that root."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if centre:
        x = x - jnp.mean(x, -1, keepdims=True)
    root = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
    return x * root, root


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x, scale, bias, eps: float):
    """Layer normalisation over the last axis, statistics in float32, result in the dtype of x."""
    unit, _ = _standard(x, eps, True)
    return (unit * scale + bias).astype(x.dtype)


def _layer_forward(x, scale, bias, eps):
    return layer_norm(x, scale, bias, eps), (x, scale)


def _layer_backward(eps, saved, g):
    x, scale = saved
    unit, root = _standard(x, eps, True)
    g = g.astype(unit.dtype)
    inner = g * scale
    dx = inner - jnp.mean(inner, -1, keepdims=True)
    dx = root * (dx - unit * jnp.mean(inner * unit, -1, keepdims=True))
    dscale, dbias = sum_rows(g * unit, 1), sum_rows(g, 1)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)


layer_norm.defvjp(_layer_forward, _layer_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x, scale, eps: float):
    """RMS normalisation: float32 statistics, cast to the dtype of x, then times the scale."""
    unit, _ = _standard(x, eps, False)
    return scale.astype(x.dtype) * unit.astype(x.dtype)


def _rms_forward(x, scale, eps):
    return rms_norm(x, scale, eps), (x, scale)


def _rms_backward(eps, saved, g):
    x, scale = saved
    unit, root = _standard(x, eps, False)
    g = g.astype(unit.dtype)
    inner = g * scale
    dx = root * (inner - unit * jnp.mean(inner * unit, -1, keepdims=True))
    return dx.astype(x.dtype), sum_rows(g * unit, 1).astype(scale.dtype)


rms_norm.defvjp(_rms_forward, _rms_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(x, scale, bias, eps: float):
    """(y, (mean, variance)): x [...,C] normalised over all axes but the last, statistics in float32.

    The variance is divided by n. The statistics are for a running average, without a gradient.
    """
    return _batch_forward(x, scale, bias, eps)[0]


def _batch_forward(x, scale, bias, eps):
    rows, wide = tuple(range(x.ndim - 1)), jnp.promote_types(x.dtype, jnp.float32)
    mean = jnp.mean(x, rows, dtype=wide)
    var = jnp.mean(jnp.square(x - mean), rows)
    root = jax.lax.rsqrt(var + eps)
    centre, factor = settle(mean), root * scale
    y = (x - centre) * factor + bias
    return (y.astype(x.dtype), (mean, var)), (x, mean, root, scale)


def _batch_backward(eps, saved, g):
    x, mean, root, scale = saved
    g, n = g[0].astype(root.dtype), x.size // x.shape[-1]
    dbias, dscale = sum_rows(g, 1), sum_rows(g * (x - mean), 1) * root
    factor, slope, centre = settle((root * scale, root * dscale / n, mean))
    dx = factor * (g - dbias / n - (x - centre) * slope)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)


batch_norm.defvjp(_batch_forward, _batch_backward)
