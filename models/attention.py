"""The attention (Vaswani et al. 2017, section 3.2), for every family, with several ways to compute it."""

import functools
import math

import flax.linen as nn
import jax

from models import banded
from models.dropout import site
from models.grids import Relative
from models.initial import deviation
from models.layers import Projection
from models.masks import Mask
from models.options import Options
from models.pictures import table_sides
from models.placement import alone
from models.positions import rotate
from models.scores import blocks, explicit, skips
from models.tiles import tiled


def kernel(q, k, v, mask: Mask, scale, bias=None, rate=0.0, key=None, dtype="float32"):
    """The accelerator's fused attention (cuDNN's flash attention); XLA's own where there is none."""
    fused = jax.default_backend() == "gpu" and dtype == "bfloat16"
    plain = mask.valid is None and mask.q_segments is None and not mask.cached
    window = (mask.window - 1, 0) if mask.window and plain else None
    out = jax.nn.dot_product_attention(
        *(x.astype(dtype) for x in (q, k, v)), bias,
        None if plain else mask.dense(q.shape[1], k.shape[1]),
        scale=scale, is_causal=mask.causal and plain, local_window_size=window,
        implementation="cudnn" if fused else "xla",
    )  # fmt: skip
    return out.astype(q.dtype), None


def choose(o: Options, mask: Mask, time: int, maps: bool, dropped: bool, traced_scale: bool):
    """The attend function for this call: those but `explicit` know no maps, the accelerator's no
    dropout or traced scale."""
    if o.attend == "explicit" or maps or mask.cached:
        return explicit
    if o.attend == "blocks":
        return blocks
    biased = o.relative_shared or o.relative_layers  # learned, of few tokens
    fusable = not dropped and not traced_scale and not biased
    if o.attend == "kernel" and fusable:
        return kernel
    if o.attend == "auto" and fusable and jax.default_backend() == "gpu":
        return kernel
    if o.attend == "tiled" or o.attend == "auto" and alone():
        return tiled
    return blocks if skips(mask, time) else explicit


class Attention(nn.Module):
    """Attention: x [B,T,D] -> (y [B,T,D], weights [B,H,T,S] or None, written cache or None).

    `layer` holds `index` and, with dropout, `key`, and, if the pattern alternates under a scan,
    `kind`; `ctx` the shared `mask`, `rotary`, `bias`, `maps` (its presence asks for the weights) and
    `index`, the cache slot to write. `memory` is this layer's {'k','v'} cache [B,G,S,K], or the
    stacked one of all layers [L,B,G,S,K], which is written in place at `layer['index']`.

    Of kind "cross" it takes keys and values from `ctx['encoded']` [B,S,D] under
    `ctx['encoded_mask']`; its memory is written then, and read where `encoded` is not given. Of n
    times as many rows as that has, n neighbours share one of its rows: the beams of a source. A
    kind that is a number is Longformer's two-sided window (`models.banded`). With `ctx['windows']`
    (`models.windows`) the tokens of each window attend to each other, of kind "shifted" in moved
    windows, and weights are [B * windows,H,T,T]. With `ctx['only']` some slots alone ask: y [B,n,D].
    """

    o: Options
    kind: str | int = "global"

    @nn.compact
    def __call__(self, x, layer, ctx, memory=None):
        o = self.o
        heads = lambda name, count, bias: Projection(
            "btd,dhk->bthk", (o.width, count, o.size), 2 * bias, deviation(o, name[0]), o.dtype,
            name=name,
        )  # fmt: skip
        cross, view = self.kind == "cross", ctx.get("windows")
        if view is not None:
            x = view.split(x, layer.get("kind", self.kind))
        source = ctx.get("encoded") if cross else x
        q = heads("q", o.heads, o.q_bias)(ctx["only"].of(x) if "only" in ctx else x)
        if source is not None:
            k = heads("k", o.groups, o.k_bias)(source)
            v = heads("v", o.groups, o.v_bias)(source)
        if "rotary" in ctx and not cross:
            mine = [table[:, -q.shape[1] :] for table in ctx["rotary"]]
            q, k = rotate(q, mine), rotate(k, ctx["rotary"])
        if memory is not None and source is None:
            k, v = _recall(memory, layer["index"])
        elif memory is not None:
            memory, k, v = _remember(memory, k, v, layer["index"], 0 if cross else ctx["index"])
        k, v = k.astype(q.dtype), v.astype(q.dtype)
        if o.windows:
            out, weights = self._banded(x, (q, k, v), heads, layer, ctx)
        else:
            out, weights = self._attend(q, k, v, layer, ctx)
        std = deviation(o, "o")
        shape = (o.heads, o.size, o.width)
        out_projection = Projection("bthk,hkd->btd", shape, int(o.o_bias), std, o.dtype, name="o")
        out = out_projection(out)
        if view is not None:
            out = view.join(out, layer.get("kind", self.kind))
        return out, weights, memory

    def _attend(self, q, k, v, layer, ctx):
        o, maps, cross = self.o, "maps" in ctx, self.kind == "cross"
        mask = ctx["encoded_mask"] if cross else ctx.get("mask")
        bias = None if cross else self._bias(ctx)
        scale = 1.0 / math.sqrt(o.size) if o.score_scale == "sqrt" else 1.0
        if o.scale_by_layer:
            scale = scale / (layer["index"] + 1)
        key = site(layer.get("key"), 3 if cross else 0)
        dropped = key is not None and o.drop_attn > 0
        traced = not isinstance(scale, float)

        if cross and len(q) != len(k):
            shared = q.reshape(len(k), -1, *q.shape[2:])
            out, weights = explicit(shared, k, v, mask, scale, None, o.drop_attn, key, o.dtype)
            return out.reshape(q.shape), _by_row(weights, q.shape[1]) if maps else None

        def run(mask, q, k, v):
            form = choose(o, mask, q.shape[1], maps, dropped, traced)
            return form(q, k, v, mask, scale, bias, o.drop_attn, key, o.dtype)

        if "windows" in ctx:
            return run(ctx["windows"].mask(layer.get("kind", self.kind), len(q)), q, k, v)
        if "kind" in layer and not cross:
            views = [mask.local(o.window) if v == "local" else mask for v in o.variants()]
            return jax.lax.switch(
                layer["kind"], [functools.partial(run, m) for m in views], q, k, v
            )
        return run(mask.local(o.window) if self.kind == "local" else mask, q, k, v)

    def _bias(self, ctx):
        """What is added to scores [1,H,T,S], or None: the stack's bias and the layer's own."""
        o, shared = self.o, ctx.get("bias")
        if not o.relative_layers:
            return shared
        if "windows" in ctx:
            grid = ctx["windows"].sides
            bias = Relative(o, table_sides(o), fixed=True, name="relative")(grid)
        else:
            bias = Relative(o, o.relative_grid, o.prefix, name="relative")(ctx["grid"].sides)
        return bias if shared is None else shared + bias

    def _banded(self, x, local, heads, layer, ctx):
        """Longformer's attention: global tokens have projections of their own."""
        o, seen = self.o, ctx.get("globals")
        wide = None
        if seen is not None:
            wide = [
                heads(f"{name}_global", o.heads, bias)
                for name, bias in (("q", o.q_bias), ("k", o.k_bias), ("v", o.v_bias))
            ]
            wide = [banded.Map(projection) for projection in wide]
        key, scale = site(layer.get("key"), 0), 1.0 / math.sqrt(o.size)

        def run(window, *local):
            call = banded.Call(
                explicit, x, local, wide, ctx["mask"], seen, window // 2, scale, o.drop_attn, key,
                o.dtype,
            )  # fmt: skip
            return banded.choose(o, x.shape[1], window, "maps" in ctx)(call)

        if "kind" in layer:
            branches = [functools.partial(run, window) for window in o.variants()]
            return jax.lax.switch(layer["kind"], branches, *local)
        return run(self.kind, *local)


def _by_row(weights, time: int):
    """Weights [B,H,n*T,S] of rows that share keys as [B*n,H,T,S]."""
    batch, heads, _, keys = weights.shape
    return (
        weights.reshape(batch, heads, -1, time, keys).swapaxes(1, 2).reshape(-1, heads, time, keys)
    )


def _recall(memory, layer):
    """This layer's keys and values [B,S,G,K], of its own memory or the stacked one."""
    if memory["k"].ndim == 4:
        own = memory["k"], memory["v"]
    else:
        take = lambda whole: jax.lax.dynamic_index_in_dim(whole, layer, 0, keepdims=False)
        own = take(memory["k"]), take(memory["v"])
    return tuple(x.swapaxes(1, 2) for x in own)


def _remember(memory, k, v, layer, slot):
    """Writes k and v [B,T,G,K] at `slot` of this layer; returns (memory, all keys, all values)."""
    new = {}
    for name, value in (("k", k), ("v", v)):
        old = memory[name]
        value = value.astype(old.dtype).swapaxes(1, 2)
        if old.ndim == 4:
            new[name] = jax.lax.dynamic_update_slice(old, value, (0, 0, slot, 0))
        else:
            new[name] = jax.lax.dynamic_update_slice(old, value[None], (layer, 0, 0, slot, 0))
    return new, *_recall(new, layer)
