"""JAX's random numbers, the same to the bit, without the loop that they are on a CPU.

Threefry-2x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4) mixes a
counter in twenty rounds. On a CPU JAX writes them as a loop, whose state XLA keeps in memory: 40 to 70
ns an entry. Written out they fuse with what reads the bits: 3 to 6 ns, the logarithms of Gumbel noise
included.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl

from models.dropout import place

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def straight(key):
    """`key` for `jax.random`'s functions, which draw the same from it: on a CPU without the loop.

    A typed key of any shape; as it is where it isn't Threefry's or the backend isn't a CPU.
    """
    if jax.default_backend() != "cpu" or str(jax.random.key_impl(key)) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_STRAIGHT)


def gumbel(key, shape):
    """Float32 of the standard Gumbel distribution, as `jax.random.gumbel`."""
    return jax.random.gumbel(straight(key), shape)


def hashed(key, counters) -> tuple:
    """Threefry-2x32 with twenty rounds: uint32 key [2] and a pair of counters of one shape -> a pair."""
    words = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(PARITY))
    high, low = counters[0] + words[0], counters[1] + words[1]
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            high = high + low
            low = high ^ ((low << jnp.uint32(turn)) | (low >> jnp.uint32(32 - turn)))
        high = high + words[(group + 1) % 3]
        low = low + words[(group + 2) % 3] + jnp.uint32(group + 1)
    return high, low


def _bits(key, width: int, shape):
    """As `jax.random.bits`: an entry's counter is its row-major index."""
    if width != 32 or math.prod(shape) >= 2**32 or not jax.config.jax_threefry_partitionable:
        return jax.random.bits(_own(key), shape, jnp.dtype(f"uint{width}"))
    index = place(shape, range(len(shape)))
    high, low = hashed(key, (jnp.zeros_like(index), index))
    return high ^ low


def _own(key):
    return jax.random.wrap_key_data(key, impl="threefry2x32")


def _seed(seed):
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


def _split(key, shape):
    return jax.random.key_data(jax.random.split(_own(key), shape))


def _fold_in(key, data):
    return jax.random.key_data(jax.random.fold_in(_own(key), data))


_STRAIGHT = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_bits,
    fold_in=_fold_in,
    name="threefry2x32_straight",
    tag="str",
)
