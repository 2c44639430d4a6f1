"""Activation functions, by name; of the smooth ones the backward pass keeps the argument alone.

Autodiff keeps what it met on the way (a tanh, an exponential), an array each as large as the hidden
layer, which a CPU writes and reads again. GELU's Phi is by erf, as in Hendrycks and Gimpel 2016: by
erfc, as in `jax.nn.gelu`, it takes 3.5 times as long there.
"""

import functools
import math

import jax
import jax.numpy as jnp

from models.gradients import relu

CUBIC = 0.044715  # Hendrycks and Gimpel 2016, section 2


def _phi(x):
    """The normal distribution function."""
    return 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_slope(x):
    return _phi(x) + x * jnp.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))


def _inner(x):
    return jnp.tanh(math.sqrt(2.0 / math.pi) * (x + CUBIC * x * x * x))


def _gelu_tanh_slope(x):
    t, inner = _inner(x), math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * CUBIC * x * x)
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner


def _swish_slope(x, beta: float):
    s = jax.nn.sigmoid(beta * x)
    return s * (1.0 + beta * x * (1.0 - s))


SMOOTH = {  # name: (value, derivative)
    "gelu": (lambda x: x * _phi(x), _gelu_slope),
    "gelu_tanh": (lambda x: 0.5 * x * (1.0 + _inner(x)), _gelu_tanh_slope),
    "silu": (lambda x: x * jax.nn.sigmoid(x), lambda x: _swish_slope(x, 1.0)),
    "quick_gelu": (lambda x: x * jax.nn.sigmoid(1.702 * x), lambda x: _swish_slope(x, 1.702)),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def smooth(name: str, x):
    """The activation `name` of `SMOOTH` on x [...], in the dtype of x, computed in float32 or wider."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return SMOOTH[name][0](wide).astype(x.dtype)


def _smooth_backward(name, x, g):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return ((g.astype(wide) * SMOOTH[name][1](x.astype(wide))).astype(g.dtype),)


smooth.defvjp(lambda name, x: (smooth(name, x), x), _smooth_backward)

ACTIVATIONS = {
    **{name: functools.partial(smooth, name) for name in SMOOTH},
    "relu": relu,
    "relu6": jax.nn.relu6,
    "tanh": jnp.tanh,
    "identity": lambda x: x,
}
