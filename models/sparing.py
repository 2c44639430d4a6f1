"""Which slots of its rows a block works out, where not all are read: an entry "only" of its `ctx`.

The last block of a stack is spared queries, feed-forward and the rest of all others; keys and values are
those of whole rows. `of` picks from x [B,T,...], `within` gives the entries of `ctx` that attention reads
for those slots, of rows of `keys` slots.
"""

import flax.struct
import jax.numpy as jnp


def take(x, index):
    """x [B,T,...] at the slots index [B,n] of its rows: [B,n,...]."""
    return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), 1)


@flax.struct.dataclass
class Last:
    """How many slots at the end of its rows a block works out: a static entry of `ctx`."""

    count: int = flax.struct.field(pytree_node=False)

    def of(self, x):
        """x [B,T,...] at those slots."""
        return x[:, -self.count :]

    def within(self, ctx: dict, keys: int) -> dict:
        """The entries of `ctx`, of so many slots."""
        mine = {"only": self, "mask": ctx["mask"].tail(self.count, keys)}
        if "bias" in ctx:
            mine["bias"] = ctx["bias"][:, :, -self.count :]
        return {**ctx, **mine}


@flax.struct.dataclass
class First:
    """How many slots at the start of its rows a block works out, of layers that look both ways alike."""

    count: int = flax.struct.field(pytree_node=False)

    def of(self, x):
        """x [B,T,...] at those slots."""
        return x[:, : self.count]

    def within(self, ctx: dict, keys: int) -> dict:
        """The entries of `ctx`, of so many slots."""
        mine = {"bias": ctx["bias"][:, :, : self.count]} if "bias" in ctx else {}
        return {**ctx, **mine, "only": self}


@flax.struct.dataclass
class Slots:
    """Which slots [B,n] of its rows a block works out, as `Last`: of layers that look both ways alike."""

    index: object

    def of(self, x):
        """x [B,T,...] at those slots."""
        return take(x, self.index)

    def within(self, ctx: dict, keys: int) -> dict:
        """The entries of `ctx`, of those slots."""
        return {**ctx, "only": self, "mask": ctx["mask"].among(self.index)}


def asked(last: int, slots, time: int):
    """The `Last` or `Slots` that are asked for of rows of `time` slots, or None: all."""
    if slots is not None:
        return Slots(slots)
    return Last(last) if 0 < last < time else None
