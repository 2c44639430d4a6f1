"""What a run's frozen parameters are: reference, reward model, teacher, the base of adapters.

They are saved as where they came from, and a folder's newest checkpoint may be another one by the time
that a run goes on. So a run's fingerprint holds a sum over their bits.
"""

import dataclasses

import jax
import jax.numpy as jnp

from train.core import forms
from train.core.state import Task

NAME = "frozen"
_MIX = 2654435761  # odd, 2^32 over the golden ratio (Knuth, volume 3, section 6.4)


def marked(task: Task) -> Task:
    """The task with its frozen parameters in its fingerprint, where it has any."""
    found = bits(task.frozen)
    if not found:
        return task
    return dataclasses.replace(task, fingerprint={**task.fingerprint, NAME: found})


def bits(tree) -> dict:
    """{"arrays": how many, "sum": 8 hex digits} of a pytree; {} without leaves.

    The sum, modulo 2^32, weighs each value's bits by its place, and each array by its path: whole
    numbers, so that no layout of devices changes it.
    """
    leaves = forms.flat(tree)
    if not leaves:
        return {}
    sums = jax.device_get(jax.jit(lambda given: {n: _sum(x) for n, x in given.items()})(leaves))
    total = 0
    for number, name in enumerate(sorted(sums)):
        total = (total * _MIX + int(sums[name]) + number) % 2**32
    return {"arrays": len(sums), "sum": f"{total:08x}"}


def _sum(x) -> jax.Array:
    """The weighed sum of one array's bits: uint32."""
    x = jnp.asarray(x)
    x = x.astype(jnp.uint8) if x.dtype == bool else x
    wide = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[x.dtype.itemsize]
    words = jax.lax.bitcast_convert_type(x, wide).astype(jnp.uint32).reshape(-1)
    places = jnp.arange(words.size, dtype=jnp.uint32) * jnp.uint32(_MIX) | jnp.uint32(1)
    return jnp.sum(words * places, dtype=jnp.uint32)
