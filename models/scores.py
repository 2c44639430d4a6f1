"""softmax(q k^T * scale + bias) v with the scores written out: at once, or a block of queries at a time.

Heads may share keys and values in groups (Ainslie et al. 2023): G of them serve H = G * R queries,
key-value head g the queries g*R .. g*R + R - 1. Scores and softmax are float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from models.dropout import drop
from models.masks import Mask
from models.placement import settle
from models.products import product

NEVER = -1e30  # the score of a forbidden pair: finite, so that a row with no key stays finite
BLOCK = 64  # queries in a block of the blocked form, the least


class Block(NamedTuple):
    """Queries begin to end - 1 against keys first to last - 1."""

    begin: int
    end: int
    first: int
    last: int

    @property
    def own(self) -> slice:
        """Its queries."""
        return slice(self.begin, self.end)

    @property
    def seen(self) -> slice:
        """Its keys."""
        return slice(self.first, self.last)


def explicit(q, k, v, mask: Mask, scale, bias=None, rate=0.0, key=None, dtype="float32"):
    """softmax(q k^T * scale + bias) v with every score written out; products' operands in `dtype`.

    q [B,T,H,K], k and v [B,S,G,K] -> ([B,T,H,K], weights [B,H,T,S] before dropout).
    """
    (batch, time, heads, _), keys = q.shape, k.shape[1]
    part = Scored(mask, scale, dtype, heads // k.shape[2])
    out, weights = part(*part.turned(q, k, v), bias, rate, key, Block(0, time, 0, keys))
    return part.back(out, q), weights.reshape(batch, heads, time, keys)


def blocks(q, k, v, mask: Mask, scale, bias=None, rate=0.0, key=None, dtype="float32"):
    """The explicit form over the blocks of `plan`, without the weights."""
    part = Scored(mask, scale, dtype, q.shape[2] // k.shape[2])
    turned, time = part.turned(q, k, v), q.shape[1]
    cut = plan(mask, time, k.shape[1], stride(mask, time))
    outs = [part(*turned, bias, rate, key, block)[0] for block in cut]
    return part.back(jnp.concatenate(outs, 3), q), None


def skips(mask: Mask, time: int) -> bool:
    """Whether blocks leave enough of the scores out to be worth it."""
    return mask.causal and time >= 2 * BLOCK


def stride(mask: Mask, time: int) -> int:
    """How many queries a block has."""
    return BLOCK if mask.window else max(BLOCK, -(-time // 8))


def plan(mask: Mask, time: int, keys: int, step: int) -> tuple:
    """The blocks of `step` queries that start at slot 0, each with the keys that it can see.

    Skips what causality and the window forbid: with n blocks a causal layer computes
    (n + 1) / 2n of the scores, a local one a band.
    """
    made = []
    for begin in range(0, time, step):
        end = min(begin + step, time)
        first = max(0, begin - mask.window + 1) if mask.window else 0
        made.append(Block(begin, end, first, end if mask.causal else keys))
    return tuple(made)


class Scored(NamedTuple):
    """The explicit form on turned arrays: queries [B,G,R,T,K], keys and values [B,G,S,K]."""

    mask: Mask
    scale: float
    dtype: str
    repeats: int

    def turned(self, q, k, v):
        """q [B,T,H,K], k and v [B,S,G,K] in the order of the products, float32 or wider."""
        wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
        q = q.reshape(*q.shape[:2], -1, self.repeats, q.shape[-1])
        return (
            settle(wide(q).transpose(0, 2, 3, 1, 4)),
            settle(wide(k).transpose(0, 2, 1, 3)),
            settle(wide(v).transpose(0, 2, 1, 3)),
        )

    def back(self, out, q):
        """[B,G,R,T,K] as [B,T,H,K] in the dtype of q."""
        return out.astype(q.dtype).transpose(0, 3, 1, 2, 4).reshape(q.shape)

    def scores(self, q, k, bias, block: Block):
        """A block's (scores [B,G,R,t,s], what is allowed, of as many axes, or None)."""
        q, k = q[:, :, :, block.own], k[:, :, block.seen]
        scores = product("bgrtk,bgsk->bgrts", q, k, self.dtype) * self.scale
        if bias is not None:
            bias = bias[:, :, block.own, block.seen]
            scores = scores + bias.reshape(bias.shape[0], k.shape[1], -1, *bias.shape[2:])
        allowed = self.mask.dense(q.shape[3], k.shape[2], block.begin, block.first)
        if allowed is None:
            return scores, None
        return jnp.where(allowed[:, :, None], scores, NEVER), allowed[:, :, None]

    def __call__(self, q, k, v, bias, rate, key, block: Block):
        """A block's (output [B,G,R,t,K], weights [B,G,R,t,s] before dropout)."""
        whole, start = (*q.shape[:4], k.shape[2]), (0, 0, 0, block.begin, block.first)
        weights = jax.nn.softmax(self.scores(q, k, bias, block)[0], -1)
        kept = drop(weights, rate, key, whole, start)
        return product("bgrts,bgsk->bgrtk", kept, v[:, :, block.seen], self.dtype), weights
