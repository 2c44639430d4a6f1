"""Attention a tile at a time, as suits a CPU: a few rows, a block of queries, while scores stay in its cache.

The scores of a batch pass through memory about a dozen times otherwise, a third of a small encoder's
step. The gradient makes a tile's scores again from the softmax's maxima and sums, as in Dao et al. 2022
(FlashAttention, algorithm 4), so that none are kept. Values are those of `models.scores.explicit`.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from models.dropout import drop
from models.masks import Mask
from models.products import product
from models.scores import Scored, plan, skips, stride

TILE = 4 << 20  # bytes of scores in a tile, at most where rows and blocks can be cut so far
MOST = 16  # blocks of queries


class Call(NamedTuple):
    """What is static: the shape [B,G,R,T,S] of all scores, the blocks of queries, in how many parts the
    rows are computed, the operands' dtype and dropout's rate."""

    shape: tuple
    cut: tuple
    parts: int
    dtype: str
    rate: float


def tiled(q, k, v, mask: Mask, scale, bias=None, rate=0.0, key=None, dtype="float32"):
    """`models.scores.explicit`, whose arguments it has, without the weights: ([B,T,H,K], None)."""
    (batch, time, heads, _), (keys, groups) = q.shape, k.shape[1:3]
    wide = jnp.promote_types(q.dtype, jnp.float32)
    row = heads * keys * wide.itemsize
    fits = max(TILE // row // 16 * 16, 16, -(-time // MOST))
    step = min(fits, stride(mask, time) if skips(mask, time) else time)
    rows = max(1, TILE // (row * step))
    parts = next(n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= rows)
    shape = (batch, groups, heads // groups, time, keys)
    call = Call(shape, plan(mask, time, keys, step), parts, dtype, rate)
    return _attend(call, q, k, v, bias, mask, scale, key), None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(call, q, k, v, bias, mask, scale, key):
    return _forward(call, q, k, v, bias, mask, scale, key)[0]


def _forward(call, q, k, v, bias, mask, scale, key):
    def part(number, own):
        (q, k, v), bias, mask = own["qkv"], own["bias"], own["mask"]
        scored = Scored(mask, scale, call.dtype, call.shape[2])
        queries, keys, values = scored.turned(q, k, v)
        outs = []
        for block in call.cut:
            x, _ = scored.scores(queries, keys, bias, block)
            most = jnp.max(x, -1, keepdims=True)
            x = jnp.exp(x - most)
            total = jnp.sum(x, -1, keepdims=True)
            x = _drop(call, x / total, key, number, block)
            seen = values[:, :, block.seen]
            outs.append((product("bgrts,bgsk->bgrtk", x, seen, call.dtype), most, total))
        out, most, total = (jnp.concatenate(each, 3) for each in zip(*outs, strict=True))
        return (scored.back(out, q), most, total), None

    rowed = dict(qkv=(q, k, v), bias=bias, mask=mask)
    (out, most, total), _ = _by_part(call, part, rowed)
    out, most, total = (checkpoint_name(x, "attended") for x in (out, most, total))
    return out, (q, k, v, bias, mask, scale, key, most, total)


def _backward(call, saved, g):
    q, k, v, bias, mask, scale, key, most, total = saved
    shared = bias is not None and len(bias) < call.shape[0]

    def part(number, own):
        (q, k, v, g, most, total), bias, mask = own["rows"], own["bias"], own["mask"]
        scored = Scored(mask, scale, call.dtype, call.shape[2])
        queries, keys, values = scored.turned(q, k, v)
        g = scored.turned(g, k, v)[0]
        dq, dk, dv = [], jnp.zeros_like(keys), jnp.zeros_like(values)
        dbias = None if bias is None else jnp.zeros(bias.shape, keys.dtype)
        for block in call.cut:
            mine, seen = block.own, block.seen
            scores, allowed = scored.scores(queries, keys, bias, block)
            x = jnp.exp(scores - most[:, :, :, mine]) / total[:, :, :, mine]
            dx = product("bgrtk,bgsk->bgrts", g[:, :, :, mine], values[:, :, seen], call.dtype)
            dx = _drop(call, dx, key, number, block)
            dx = x * (dx - jnp.sum(x * dx, -1, keepdims=True))
            dx = dx if allowed is None else jnp.where(allowed, dx, jnp.zeros((), dx.dtype))
            if bias is not None:
                more = dx.reshape(len(dx), -1, *dx.shape[3:])
                more = jnp.sum(more, 0, keepdims=True) if shared else more
                dbias = dbias.at[:, :, mine, seen].add(more)
            dx = dx * scale
            x = _drop(call, x, key, number, block)
            dq.append(product("bgrts,bgsk->bgrtk", dx, keys[:, :, seen], call.dtype))
            add = lambda to, x, y: to.at[:, :, seen].add(
                product("bgrts,bgrtk->bgsk", x, y, call.dtype)
            )
            dk, dv = add(dk, dx, queries[:, :, :, mine]), add(dv, x, g[:, :, :, mine])
        turn = lambda x, like: x.transpose(0, 2, 1, 3).astype(like.dtype)
        grads = scored.back(jnp.concatenate(dq, 3), q), turn(dk, k), turn(dv, v)
        return (grads, None if shared else dbias), dbias if shared else None

    rowed = dict(rows=(q, k, v, g, most, total), bias=bias, mask=mask)
    (grads, dbias), summed = _by_part(call, part, rowed)
    dbias = summed if dbias is None else dbias
    return *grads, None if bias is None else dbias.astype(bias.dtype), None, None, None


_attend.defvjp(_forward, _backward)


def _drop(call, x, key, number, block):
    """Weights or their gradients, dropped as the entries of all scores are that they are."""
    first = number * (call.shape[0] // call.parts)
    return drop(x, call.rate, key, call.shape, (first, 0, 0, block.begin, block.first))


def _by_part(call, compute, rowed):
    """compute(number, part) for every part of the rows -> (arrays of its rows, what is summed).

    Arrays of `rowed` that have no row for each of the batch's are every part's.
    """
    if call.parts == 1:
        return compute(0, rowed)
    batch = call.shape[0]
    leaves, whole = jax.tree.flatten(rowed)
    cut = [i for i, x in enumerate(leaves) if len(x) == batch]
    parts = [leaves[i].reshape(call.parts, -1) for i in cut]  # flat: layouts of their own

    def one(number, parts):
        own = list(leaves)
        for i, x in zip(cut, parts, strict=True):
            own[i] = x.reshape(-1, *leaves[i].shape[1:])
        return compute(number, whole.unflatten(own))

    shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32), [x[0] for x in parts])
    # What the loop fills begins as copies of an entry of this layer's: XLA would make zeros for all layers
    # at once, as the program starts.
    like, made = jax.tree.flatten(shapes[0])
    floats = [x for x in parts if jnp.issubdtype(x.dtype, jnp.floating)]
    first = [floats[i % len(floats)][0, i].astype(x.dtype) for i, x in enumerate(like)]
    outs = [
        jnp.broadcast_to(value, (call.parts, math.prod(x.shape)))
        for value, x in zip(first, like, strict=True)
    ]
    summed = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[1])

    def body(number, held):
        outs, summed = held
        got, more = one(number, [x[number] for x in parts])
        outs = [
            jax.lax.dynamic_update_index_in_dim(old, x.reshape(-1), number, 0)
            for old, x in zip(outs, jax.tree.leaves(got), strict=True)
        ]
        return outs, jax.tree.map(jnp.add, summed, more)

    outs, summed = jax.lax.fori_loop(0, call.parts, body, (outs, summed))
    outs = [x.reshape(batch, *own.shape[1:]) for x, own in zip(outs, like, strict=True)]
    return made.unflatten(outs), summed
