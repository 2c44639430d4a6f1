"""Activation functions, by name.

GELU is x Phi(x) with Phi by erf and a closed slope that keeps x alone (Hendrycks and Gimpel 2016). As
`jax.nn.gelu` has it, Phi is by erfc, which takes a CPU 3.5 times as long, and autodiff keeps an
exponential as large as the hidden layer. GELU by tanh gains nothing that way (GPT-2, 12M).
"""

import math

import jax
import jax.numpy as jnp

from models.gradients import relu


def _phi(x):
    """The normal distribution function."""
    return 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _wide(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_vjp
def gelu(x):
    """x Phi(x) of x [...], in the dtype of x, computed in float32 or wider."""
    return (_wide(x) * _phi(_wide(x))).astype(x.dtype)


def _gelu_backward(x, g):
    wide = _wide(x)
    slope = _phi(wide) + wide * jnp.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
    return ((_wide(g) * slope).astype(g.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)

ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "relu6": jax.nn.relu6,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "identity": lambda x: x,
}
