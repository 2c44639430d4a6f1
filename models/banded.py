"""Longformer's attention (Beltagy et al. 2020, section 3.1): a two-sided window and global tokens.

A token sees those at most w/2 slots away and every global token, through q, k and v. A global token
sees every token through three projections of its own. Rows of padding get nothing (zeros), as in the
reference. Memory and time of `banded` grow linearly with the length, whatever the length is.
"""

import dataclasses

import jax
import jax.numpy as jnp

from models.dropout import drop, site
from models.gradients import add_bias
from models.masks import Globals, Mask
from models.options import Options
from models.products import product

NEVER = -1e30
CHUNK = 64  # queries in a chunk, the least


class Map:
    """A projection as a pure function, which may run inside `lax.cond`."""

    def __init__(self, projection):
        self.equation, self.dtype = projection.equation, projection.dtype
        self.kernel = projection.kernel
        self.bias = projection.bias if projection.bias_axes else None

    def __call__(self, x):
        y = product(self.equation, x, self.kernel, self.dtype)
        return y if self.bias is None else add_bias(y, self.bias)


@dataclasses.dataclass(frozen=True)
class Call:
    """What one layer computes with: `local` = (q, k, v) [B,T,H or G,K] of x [B,T,D], `wide` the three
    projections of global tokens and `seen` which those are, both None without any; `half` = w/2;
    `explicit` the dense attend function."""

    explicit: object
    x: object
    local: tuple
    wide: list | None
    mask: Mask
    seen: Globals | None
    half: int
    scale: float
    rate: float
    key: object
    dtype: str

    def real(self):
        """[B,T]: which rows are no padding, or None if all are real."""
        mask = self.mask
        parts = [] if mask.valid is None else [mask.valid != 0]
        parts += [] if mask.q_segments is None else [mask.q_segments != 0]
        return None if not parts else parts[0] if len(parts) == 1 else parts[0] & parts[1]

    def dense(self, q, k, v, mask, number):
        key = site(self.key, number)
        return self.explicit(q, k, v, mask, self.scale, None, self.rate, key, self.dtype)


def choose(o: Options, time: int, window: int, maps: bool):
    """The form for this call: the banded one makes no maps, and gains nothing within a window."""
    if o.attend == "explicit" or maps:
        return whole
    return banded if o.attend == "banded" or time > max(window, CHUNK) else whole


def whole(call: Call):
    """Every score written out: ([B,T,H,K], weights [B,H,T,T])."""
    out, weights = _rows(call, *call.local[:1], call.mask, call.real())
    if call.seen is None:
        return out, weights
    q, k, v = (project(call.x) for project in call.wide)
    other, seeing = call.dense(q, k, v, call.mask, 1)
    marks = call.seen.marks
    return (
        jnp.where(marks[:, :, None, None], other, out),
        jnp.where(marks[:, None, :, None], seeing, weights),
    )


def _rows(call, q, mask, real, number=0):
    """Local attention of queries q [B,t,H,K] to all keys."""
    _, k, v = call.local
    marks = None if call.seen is None else call.seen.marks
    mask = dataclasses.replace(mask, span=call.half, everywhere=marks)
    out, weights = call.dense(q, k, v, mask, number)
    if real is None:
        return out, weights
    return out * real[:, :, None, None].astype(out.dtype), weights * real[:, None, :, None]


def banded(call: Call):
    """Chunks of queries against the keys around them; global tokens beside: ([B,T,H,K], None).

    More global tokens in a row than there are slots for are computed by `_blockwise` instead, which
    is exact and linear in memory, and takes time that grows with the square of the length.
    """
    if call.seen is None:
        return _band(call), None
    quick = lambda: _set_global_rows(call, _band(call))
    if call.seen.index.shape[1] == call.x.shape[1]:
        return quick(), None
    return jax.lax.cond(call.seen.over, lambda: _blockwise(call), quick), None


def _band(call: Call):
    q, k, v = call.local
    mask, seen, half = call.mask, call.seen, call.half
    batch, time, heads, size = q.shape
    groups, step = k.shape[2], max(CHUNK, half // 2)
    count = -(-time // step)

    def chunk(a):
        a = jnp.pad(a, [(0, 0), (0, count * step - time)] + [(0, 0)] * (a.ndim - 2))
        return a.reshape(batch, count, step, *a.shape[2:])

    around = lambda a: _around(chunk(a), half)
    wide = lambda a: a.astype(jnp.promote_types(a.dtype, jnp.float32))
    grouped = chunk(wide(q)).reshape(batch, count, step, groups, heads // groups, size)
    offset = jnp.arange(step + 2 * half) - jnp.arange(step)[:, None]
    keys = jnp.ones((batch, time), bool) if mask.valid is None else mask.valid != 0
    keys = keys if seen is None else keys & ~seen.marks
    allowed = ((offset >= 0) & (offset <= 2 * half)) & around(keys)[:, :, None]
    if mask.q_segments is not None:
        mine = chunk(mask.q_segments)[..., None]
        allowed = allowed & (mine == around(mask.k_segments)[:, :, None])
    scores = product("bncgrk,bnsgk->bngrcs", grouped, around(wide(k)), call.dtype)
    if seen is not None:
        others = product("bncgrk,bmgk->bngrcm", grouped, seen.rows(wide(k)), call.dtype)
        scores = jnp.concatenate([scores, others], -1)
        visible = seen.held[:, None, None]
        if mask.q_segments is not None:
            visible = visible & (mine == seen.rows(mask.k_segments)[:, None, None])
        visible = jnp.broadcast_to(visible, (batch, count, step, visible.shape[-1]))
        allowed = jnp.concatenate([allowed, visible], -1)
    scores = jnp.where(allowed[:, :, None, None], scores * call.scale, NEVER)
    weights = drop(jax.nn.softmax(scores, -1), call.rate, site(call.key, 0))
    near = weights[..., : step + 2 * half]
    out = product("bngrcs,bnsgk->bncgrk", near, around(wide(v)), call.dtype)
    if seen is not None:
        far = weights[..., step + 2 * half :]
        out = out + product("bngrcm,bmgk->bncgrk", far, seen.rows(wide(v)), call.dtype)
    out = out.astype(q.dtype).reshape(batch, count * step, heads, size)[:, :time]
    real = call.real()
    return out if real is None else out * real[:, :, None, None].astype(out.dtype)


def _around(chunks, half: int):
    """Chunks [B,n,C,...] with the `half` entries before and after each: [B,n,C + 2 half,...]."""
    count, step = chunks.shape[1:3]
    sides = -(-half // step)
    padded = jnp.pad(chunks, [(0, 0), (sides, sides)] + [(0, 0)] * (chunks.ndim - 2))
    parts = []
    for shift in range(2 * sides + 1):
        part = padded[:, shift : shift + count]
        spare = sides * step - half
        part = part[:, :, spare:] if shift == 0 else part
        parts.append(part[:, :, : step - spare] if shift == 2 * sides else part)
    return jnp.concatenate(parts, 2)


def _set_global_rows(call: Call, out):
    """`out` with the rows of the global tokens, computed by their own projections from all keys."""
    seen, mask, time = call.seen, call.mask, call.x.shape[1]
    project_q, project_k, project_v = call.wide
    segments = None if mask.q_segments is None else seen.rows(mask.q_segments)
    mask = dataclasses.replace(mask, q_segments=segments)
    q = project_q(seen.rows(call.x))
    rows, _ = call.dense(q, project_k(call.x), project_v(call.x), mask, 1)
    slots = jnp.where(seen.held, seen.index, time)
    return out.at[jnp.arange(len(out))[:, None], slots].set(rows, mode="drop")


def _blockwise(call: Call):
    """`whole` over blocks of queries whose scores are made again in the backward pass."""
    q = call.local[0]
    time = q.shape[1]
    step = max(CHUNK, call.half // 2)
    count = -(-time // step)
    k, v = (project(call.x) for project in call.wide[1:])
    real = call.real()
    real = jnp.ones(q.shape[:2], bool) if real is None else real

    def split(a):
        a = jnp.pad(a, [(0, 0), (0, count * step - time)] + [(0, 0)] * (a.ndim - 2))
        return jnp.moveaxis(a.reshape(len(a), count, step, *a.shape[2:]), 1, 0)

    @jax.checkpoint
    def one(part):
        segments = part.get("segments")
        mask = dataclasses.replace(call.mask, start=part["start"], q_segments=segments)
        number = 2 + part["start"]
        out, _ = _rows(call, part["q"], mask, part["real"], number)
        other, _ = call.dense(call.wide[0](part["x"]), k, v, mask, number + time)
        return jnp.where(part["marks"][:, :, None, None], other, out)

    parts = {"q": q, "x": call.x, "real": real, "marks": call.seen.marks}
    if call.mask.q_segments is not None:
        parts["segments"] = call.mask.q_segments
    parts = {name: split(a) for name, a in parts.items()}
    out = jax.lax.map(one, {**parts, "start": step * jnp.arange(count)})
    return jnp.moveaxis(out, 0, 1).reshape(len(q), count * step, *q.shape[2:])[:, :time]
