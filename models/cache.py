"""The keys and values of what was read so far: a plain pytree that a decoding loop carries.

`k`, `v`: a tuple of L arrays [B,S,G,K], or one array [L,B,S,G,K] for a scanned model; `valid` [B,S];
`position` [B], the next token's; `index`, the next slot to write. Prompts are left-padded, so one
index serves all rows. A step writes in place if the loop donates or carries it.
"""

import jax
import jax.numpy as jnp

from models.options import Options


def init(o: Options, batch: int, slots: int, dtype=jnp.float32) -> dict:
    """An empty cache for `batch` rows of at most `slots` tokens."""
    shape = (batch, slots, o.groups, o.size)
    if o.scan:
        empty = lambda: jnp.zeros((o.layers, *shape), dtype)
    else:
        empty = lambda: tuple(jnp.zeros(shape, dtype) for _ in range(o.layers))
    return {
        "k": empty(),
        "v": empty(),
        "valid": jnp.zeros((batch, slots), bool),
        "position": jnp.zeros((batch,), jnp.int32),
        "index": jnp.zeros((), jnp.int32),
    }


def reorder(cache: dict, rows) -> dict:
    """The cache of the given rows [B'], in that order: for beams, which copy and drop rows."""
    take = lambda x: x[rows] if x.ndim == 4 else x[:, rows]
    return {
        **cache,
        "k": jax.tree.map(take, cache["k"]),
        "v": jax.tree.map(take, cache["v"]),
        "valid": cache["valid"][rows],
        "position": cache["position"][rows],
    }


def write(cache: dict, mask) -> dict:
    """Marks the T slots that `mask` [B,T] fills as written; the layers write `k` and `v`."""
    valid = jax.lax.dynamic_update_slice(cache["valid"], mask.astype(bool), (0, cache["index"]))
    return {
        **cache,
        "valid": valid,
        "position": cache["position"] + mask.astype(jnp.int32).sum(1),
        "index": cache["index"] + mask.shape[1],
    }
