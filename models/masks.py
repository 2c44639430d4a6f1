"""Who may attend to whom: a description, made dense only where it must be."""

import dataclasses

import flax
import jax
import jax.numpy as jnp

from models.sparing import take


@flax.struct.dataclass
class Mask:
    """Query t of slot `start + t` sees key slot s iff every rule that is set allows it; no start is 0.

    causal: s <= start + t. window > 0: start + t - window < s. valid [B,S]: key s is real.
    q_segments [B,T], k_segments [B,S]: equal and not 0 (0 is padding). span > 0: |start + t - s| <=
    span, or s is marked in `everywhere` [B,S]. Causality is on slots, the places in the buffer;
    positions are for the position tables alone.
    """

    causal: bool = flax.struct.field(pytree_node=False, default=True)
    window: int = flax.struct.field(pytree_node=False, default=0)
    start: object = None
    valid: object = None
    q_segments: object = None
    k_segments: object = None
    span: int = flax.struct.field(pytree_node=False, default=0)
    everywhere: object = None

    def local(self, window: int) -> "Mask":
        """The same mask seen through a window."""
        return dataclasses.replace(self, window=window)

    def tail(self, count: int, keys: int) -> "Mask":
        """The mask of the last `count` queries of `keys`, from slot 0, on as many keys."""
        mine = None if self.q_segments is None else self.q_segments[:, -count:]
        return dataclasses.replace(self, start=keys - count, q_segments=mine)

    def among(self, slots) -> "Mask":
        """The mask of the queries in `slots` [B,n], where it does not matter which a query stands in."""
        mine = self.q_segments
        mine = None if mine is None else take(mine, slots)
        return dataclasses.replace(self, q_segments=mine)

    @property
    def cached(self) -> bool:
        """Whether queries start anywhere but at slot 0 of the keys."""
        return self.start is not None

    def dense(self, time: int, keys: int, query: int = 0, key: int = 0):
        """Boolean [B or 1, 1, time, keys] of queries from `query` and keys from `key`, or None.

        None means that everything is allowed. The offsets select a block of the whole.
        """
        parts = []
        slot = (self.start if self.cached else 0) + query + jnp.arange(time)[:, None]
        other = key + jnp.arange(keys)[None, :]
        if self.causal:
            parts.append((other <= slot)[None, None])
        if self.window:
            parts.append((other > slot - self.window)[None, None])
        if self.span:
            near = (jnp.abs(other - slot) <= self.span)[None, None]
            if self.everywhere is not None:
                near = near | self.everywhere[:, None, None, key : key + keys].astype(bool)
            parts.append(near)
        if self.valid is not None:
            parts.append(self.valid[:, None, None, key : key + keys].astype(bool))
        if self.q_segments is not None:
            mine = self.q_segments[:, None, query : query + time, None]
            theirs = self.k_segments[:, None, None, key : key + keys]
            parts.append((mine == theirs) & (theirs != 0))
        if not parts:
            return None
        allowed = parts[0]
        for part in parts[1:]:
            allowed = allowed & part
        return allowed


@flax.struct.dataclass
class Globals:
    """The tokens that see and are seen everywhere (Beltagy et al. 2020, section 3.1).

    marks [B,T] says which; index [B,M] the slots of the first M = min(T, `slots`) of them in each
    row and held [B,M] whether there is one; `over` whether a row has more than M.
    """

    marks: object
    index: object
    held: object
    over: object

    @classmethod
    def of(cls, marks, real, slots: int) -> "Globals":
        """From a mask [B,T]; tokens that are not `real` [B,T] are none."""
        marks = (marks != 0) & (real != 0)
        size = min(slots, marks.shape[1])
        held, index = jax.lax.top_k(marks.astype(jnp.int32), size)  # ties in order of slot
        return cls(marks, index, held > 0, jnp.any(marks.sum(1) > size))

    def rows(self, x):
        """x [B,T,...] at the global slots: [B,M,...]."""
        return take(x, self.index)


def before_separator(tokens, separator):
    """True before each row's first separator, an id or ids [B,1]: a question, global in span tasks. [B,T]."""
    return jnp.cumsum((tokens == separator).astype(jnp.int32), 1) == 0
