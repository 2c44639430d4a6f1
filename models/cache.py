"""The keys and values of what was read so far: a plain pytree that a decoding loop carries.

`k`, `v`: a tuple of L arrays [B,G,S,K], in the order of the products that read them, or one array
[L,B,G,S,K] for a scanned model; `valid` [B,S]; `position` [B], the next token's; `index`, the next slot
to write. Prompts are left-padded, so one index serves all rows. A step writes in place if the loop
donates or carries it.
"""

import jax
import jax.numpy as jnp

from models.options import Options


def init(o: Options, batch: int, slots: int, dtype=jnp.float32, source: int = 0) -> dict:
    """An empty cache for `batch` rows of at most `slots` tokens.

    A model with cross-attention keeps its keys and values of `source` encoded tokens as well:
    `cross_k`, `cross_v` and `cross_valid` [B,source], filled by the call that is given `encoded`.
    """

    def empty(length):
        shape = (batch, o.groups, length, o.size)
        if o.scan:
            return jnp.zeros((o.depth, *shape), dtype)
        return tuple(jnp.zeros(shape, dtype) for _ in range(o.depth))

    cross = {}
    if o.cross:
        cross = {"cross_k": empty(source), "cross_v": empty(source)}
        cross["cross_valid"] = jnp.ones((batch, source), bool)
    return {
        "k": empty(slots),
        "v": empty(slots),
        **cross,
        "valid": jnp.zeros((batch, slots), bool),
        "position": jnp.zeros((batch,), jnp.int32),
        "index": jnp.zeros((), jnp.int32),
    }


def reorder(cache: dict, rows) -> dict:
    """The cache of the given rows [B'], in that order: for beams, which copy and drop rows."""
    take = lambda x: x[rows] if x.ndim == 4 else x[:, rows]
    whole = ("k", "v", "cross_k", "cross_v")
    new = {name: jax.tree.map(take, cache[name]) for name in whole if name in cache}
    by_row = ("valid", "position", "cross_valid")
    return {**cache, **new, **{name: cache[name][rows] for name in by_row if name in cache}}


def among(cache: dict, rows) -> dict:
    """`reorder` for the beams of each prompt, which share what cross-attention reads: that stays."""
    shared = {name: cache[name] for name in ("cross_k", "cross_v", "cross_valid") if name in cache}
    return {**reorder({k: v for k, v in cache.items() if k not in shared}, rows), **shared}


def write(cache: dict, mask, encoded_mask=None) -> dict:
    """Marks the T slots that `mask` [B,T] fills as written; the layers write `k` and `v`.

    `encoded_mask` [B,S] says which encoded tokens are real, if this call brings any.
    """
    if encoded_mask is not None:
        cache = {**cache, "cross_valid": encoded_mask.astype(bool)}
    valid = jax.lax.dynamic_update_slice(cache["valid"], mask.astype(bool), (0, cache["index"]))
    return {
        **cache,
        "valid": valid,
        "position": cache["position"] + mask.astype(jnp.int32).sum(1),
        "index": cache["index"] + mask.shape[1],
    }
