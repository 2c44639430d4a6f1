"""From options to a model."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.decoder import Decoder
from models.options import Options

KINDS = {"decoder": Decoder}


def build(o: Options) -> nn.Module:
    """The module that the options describe."""
    return KINDS[o.kind](o)


def example(o: Options, batch: int = 1, time: int = 1) -> dict:
    """A batch of zeros [B,T] to initialise or to compile with."""
    return {"tokens": jnp.zeros((batch, time), jnp.int32)}


def shapes(o: Options) -> dict:
    """The parameter tree as shapes and dtypes; nothing is allocated."""
    return jax.eval_shape(build(o).init, jax.random.key(0), example(o))["params"]


def count(o: Options) -> int:
    """The number of parameters; the scanned form is the same and quicker to trace."""
    leaves = jax.tree.leaves(shapes(o.replace(scan=True)))
    return sum(math.prod(leaf.shape) for leaf in leaves)
