"""Dropout and stochastic depth, with bits that cost next to nothing and no layout changes.

A mask needs independent bits, not secret ones: JAX's own generator takes 10 to 24 ns an entry on a
CPU (a quarter to two fifths of a small BERT's fine-tuning step), a hash of a counter half a nanosecond.
The bits are a function of the key and of an entry's place alone, so sharding and accumulation change
none.
"""

import math

import jax
import jax.numpy as jnp

COUNT = 2**32  # what a counter can tell apart


def mix(x):
    """A bijection of 32 bits in which each input bit flips each output bit half the time: uint32 in
    and out, any shape. Constants of the triple found by search for least bias (Wellons 2018,
    "Prospecting for Hash Functions"; the pair of 2022)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0x735A2D97)
    return x ^ (x >> 15)


def place(shape, axes, whole=None, start=None):
    """Row-major index over `axes` of `shape`, uint32, of shape `shape` with 1 on every other axis.

    Of a block of an array of shape `whole` whose first entry is there at `start`, the index there.
    """
    kept = tuple(size if axis in axes else 1 for axis, size in enumerate(shape))
    whole, start = whole or shape, start or (0,) * len(shape)
    index, stride = jnp.zeros(kept, jnp.uint32), 1
    for axis in sorted(axes, reverse=True):
        step = jax.lax.broadcasted_iota(jnp.uint32, kept, axis)
        step = step + jnp.asarray(start[axis]).astype(jnp.uint32)
        index, stride = index + step * jnp.uint32(stride % 2**32), stride * whole[axis]
    return index


def bits(key, shape, whole=None, start=None):
    """Uniform uint32 of `shape` from a key (typed or raw): two rounds of `mix` over the entry's place,
    keyed by two words. Leading axes that a counter has no room for choose the first word.

    With `whole` and `start`, which may be traced, those of a block of an array of that shape.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    whole, split = whole or shape, 0
    while math.prod(whole[split:]) > COUNT:
        split += 1
    if split:
        first = mix(place(shape, range(split), whole, start) ^ first)
    return mix(mix(place(shape, range(split, len(shape)), whole, start) ^ first) ^ second)


def drop(x, rate: float, key, whole=None, start=None):
    """Inverted dropout (Srivastava et al. 2014): zeroes entries of x [...] with probability `rate` (to
    2^-32) and scales up the others; the identity if `key` is None. `whole`, `start`: see `bits`."""
    if key is None or rate == 0.0:
        return x
    keep = bits(key, x.shape, whole, start) < jnp.uint32(
        min(round((1.0 - rate) * COUNT), COUNT - 1)
    )
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


def drop_rows(x, rate, key):
    """Zeroes whole rows of x [B,...] with probability `rate`, which may be traced, and scales up the
    others (Huang et al. 2016); the identity if `key` is None."""
    if key is None:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, (len(x), *[1] * (x.ndim - 1)))
    return jnp.where(keep, x / (1.0 - rate).astype(x.dtype), jnp.zeros((), x.dtype))


def site(key, number: int):
    """The dropout key of one of a layer's sites, or None."""
    return None if key is None else jax.random.fold_in(key, number)
