"""The block and the stack of blocks, in two forms of one tree.

Unrolled layers are apart (`blocks/7/attn/q/kernel`), scanned ones stacked
(`blocks/attn/q/kernel [L,...]`); `stack` and `unstack` convert. Both give the same numbers.
"""

import functools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.attention import Attention
from models.dropout import drop, drop_rows, site
from models.layers import Experts, FeedForward, Norm
from models.options import Options
from models.placement import settle

MEMORY = ("k", "v", "cross_k", "cross_v")  # what a cache holds for each layer

WRITTEN = ("turned", "batch_stats", "intermediates")  # collections that blocks may write

POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names("attended"),  # what `models.tiles` gives
    ),
}


@flax.struct.dataclass
class Grid:
    """Rows and columns of the patches that a stack reads: a static entry of `ctx`."""

    sides: tuple = flax.struct.field(pytree_node=False)


class Block(nn.Module):
    """Attention, attention to `encoded` if `o.cross`, and feed-forward, each in a residual branch.

    Norms stand before or after. pre: x + f(norm(x)) (Radford et al. 2019). post: norm(x + f(x)) (Vaswani et al. 2017).
    none: x + f(x). Without `o.residual` a branch replaces x, without `o.mlp` there is one branch.
    `state` holds `x` [B,T,D] and, when decoding, the cache's `k` and `v`; returns the new state and
    what this layer gives: `maps` and `hidden` if asked for, `router` if it has experts.
    """

    o: Options
    kind: str | int = "global"

    @nn.compact
    def __call__(self, state, layer, ctx):
        o, x, key = self.o, state["x"], layer.get("key")
        memory = {"k": state["k"], "v": state["v"]} if "k" in state else None
        crossed = {"k": state["cross_k"], "v": state["cross_v"]} if "cross_k" in state else None
        pre, post = o.norm_place == "pre", o.norm_place == "post"
        attn_norm, mlp_norm = Norm(o, name="attn_norm"), Norm(o, name="mlp_norm")
        out = {}

        attention = Attention(o, self.kind, name="attn")
        y, weights, memory = attention(attn_norm(x) if pre else x, layer, ctx, memory)
        x = ctx["only"].of(x) if "only" in ctx else x
        x = self._join(x, y, "attn", layer, 1)
        x = attn_norm(x) if post else x
        if o.cross:
            norm = Norm(o, name="cross_norm")
            attention = Attention(o, "cross", name="cross")
            y, cross_weights, crossed = attention(norm(x) if pre else x, layer, ctx, crossed)
            x = self._join(x, y, "cross", layer, 4)
            x = norm(x) if post else x
            if "maps" in ctx:
                out["cross_maps"] = cross_weights
        if o.experts:
            y, sums = Experts(o, name="mlp")(mlp_norm(x) if pre else x, ctx["real"])
            out["router"] = {k: v for k, v in sums.items() if k != "logits" or "stats" in ctx}
        elif o.mlp:
            y = FeedForward(o, name="mlp")(mlp_norm(x) if pre else x, site(key, 5))
        if o.mlp:
            x = self._join(x, y, "mlp", layer, 2)
            x = mlp_norm(x) if post else x
        if "maps" in ctx:
            out["maps"] = weights
        if "hidden" in ctx:
            out["hidden"] = x
        kept = {f"cross_{name}": value for name, value in (crossed or {}).items()}
        return {"x": x, **(memory or {}), **kept}, out

    def _join(self, x, y, name: str, layer, place: int):
        """x + a branch y: dropped, times its channels' factors (Touvron et al. 2021, LayerScale),
        left out for whole rows (Huang et al. 2016, stochastic depth)."""
        o, key = self.o, layer.get("key")
        y = drop(y, o.drop_resid, site(key, place))
        if o.layer_scale:
            y = Scale(o.layer_scale, name=f"{name}_scale")(y)
        if o.drop_path:
            y = drop_rows(y, layer["path"], site(key, 10 + place))
        return settle(x + y) if o.residual else settle(y)


class Scale(nn.Module):
    """A learned factor for each channel, at first `start`: x [...,D]."""

    start: float

    @nn.compact
    def __call__(self, x):
        start = nn.initializers.constant(self.start)
        return x * self.param("scale", start, (x.shape[-1],), jnp.float32).astype(x.dtype)


def policy(o: Options) -> str:
    """What a block keeps for its gradient, with "auto" decided: on a CPU, products, if layers are apart.

    There, making element-wise results again costs no more than reading them back, and the step's
    temporaries halve. It needs the step's compiler options (`train.core.state.make_step`): XLA's CPU
    pipeline otherwise merges what is made again with what was made first.
    """
    if o.remat != "auto":
        return o.remat
    return "dots_no_batch" if not o.scan and jax.default_backend() == "cpu" else "none"


def _block(o: Options):
    """The block's class, rematerialised as the options say."""
    kept = policy(o)
    if kept == "none":
        return Block
    return nn.remat(Block, policy=POLICIES[kept], prevent_cse=not o.scan)


def _shared(block: nn.Module):
    """A block as a function of (variables, state, layer, ctx) that the layers of a kind have in common:
    its program, its gradient's and their text are worked out once instead of for each of them.

    For what is traced; run by itself it would be compiled.
    """

    def layer(variables, *given):
        return block.apply(variables, *given)

    return jax.jit(layer)


class Stack(nn.Module):
    """The layers apart; those that share parameters call one block. The cache is tuples of arrays.

    `ctx['only']` holds for the last layer: the others make what it attends to.
    """

    o: Options

    @nn.compact
    def __call__(self, state, layers, ctx):
        o, outs = self.o, []
        names = [name for name in MEMORY if name in state]
        only, ctx = ctx.get("only"), {name: x for name, x in ctx.items() if name != "only"}
        memory = {name: [] for name in names}
        x, order = state["x"], o.order()
        kinds = dict(zip(order, o.kinds(), strict=True))
        block = Block if names else _block(o)
        traced = isinstance(x, jax.core.Tracer) and not self.is_initializing()
        if traced and not any(map(self.is_mutable_collection, WRITTEN)):
            common = {kind: _shared(block(o, kind, parent=None)) for kind in set(kinds.values())}
            own = lambda i: {
                n: tree[str(i)] for n, tree in self.variables.items() if str(i) in tree
            }
            made = lambda i, kind: functools.partial(common[kind], own(i))
        else:
            made = lambda i, kind: block(o, kind, name=str(i))
        bank = {i: made(i, kind) for i, kind in kinds.items()}
        for depth, i in enumerate(order):
            mine = {"x": x, **{name: state[name][depth] for name in names}}
            layer = {name: layers[name][depth] for name in ("key", "path") if name in layers}
            layer["index"] = jnp.int32(depth)
            if only is not None and depth == o.depth - 1:
                ctx = only.within(ctx, x.shape[1])
            mine, out = bank[i](mine, layer, ctx)
            x = mine["x"]
            outs.append(out)
            for name in names:
                memory[name].append(mine[name])
        new = {"x": x, **{name: tuple(values) for name, values in memory.items()}}
        return new, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)


class SharedStack(nn.Module):
    """The scanned form of layers that share parameters: blocks [groups * inner, ...] (ALBERT).

    Each group's layers are one scan, whose gradient adds up over its steps.
    """

    o: Options

    @nn.compact
    def __call__(self, state, layers, ctx):
        o = self.o
        block = _block(o)(o, o.kinds()[0], parent=None)
        if self.is_initializing():
            first = jax.tree.map(lambda leaf: leaf[0], layers)
            keys = jax.random.split(self.make_rng("params"), o.share_groups * o.share_inner)
            made = jax.vmap(lambda key: block.init(key, state, first, ctx)["params"])(keys)
            for name, tree in made.items():
                self.param(name, lambda _, tree=tree: tree)
        shared, order, outs = self.variables["params"], o.order(), []
        for group in range(o.share_groups):
            steps = [depth for depth, i in enumerate(order) if i // o.share_inner == group]
            mine = jax.tree.map(lambda leaf: leaf[steps[0] : steps[-1] + 1], layers)
            mine = jax.tree.map(lambda leaf: leaf.reshape(-1, o.share_inner, *leaf.shape[1:]), mine)

            def layer(state, given, first=group * o.share_inner):
                inner = []
                for j in range(o.share_inner):
                    params = jax.tree.map(lambda leaf: leaf[first + j], shared)
                    one = jax.tree.map(lambda leaf: leaf[j], given)
                    state, out = block.apply({"params": params}, state, one, ctx)
                    inner.append(out)
                return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *inner)

            state, out = jax.lax.scan(layer, state, mine)
            outs.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), out))
        return state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outs)


def blocks(o: Options) -> nn.Module:
    """The stack, scanned or unrolled: called with (state, layers, ctx), see `layers`."""
    if not o.scan:
        return Stack(o)
    if o.share_groups:
        return SharedStack(o)
    scanned = nn.scan(
        _block(o),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        length=o.layers,
    )
    return scanned(o, o.kinds()[0])


def layers(o: Options, key=None, rates=None) -> dict:
    """What differs by layer, stacked: `index` [L], `key` [L] with dropout, `kind` [L] if it varies,
    `path` [L], the rates at which rows leave a branch out (`rates`, or rising evenly from 0).

    `kind` is the place in `o.variants()`. Dropout keys are folded by layer index, so that both forms
    drop the same entries.
    """
    index = jnp.arange(o.depth, dtype=jnp.int32)
    out = {"index": index}
    if o.drop_path:
        rates = np.linspace(0.0, o.drop_path, o.depth) if rates is None else rates
        out["path"] = jnp.asarray(rates, jnp.float32)
    if key is not None:
        out["key"] = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    if len(o.variants()) > 1:
        out["kind"] = jnp.asarray([o.variants().index(kind) for kind in o.kinds()], jnp.int32)
    return out


def stack(tree: dict) -> dict:
    """The scanned form of a parameter tree: `blocks/{i}/...` become one `blocks/...` [L,...]."""
    out = {}
    for name, branch in tree.items():
        if name == "blocks" and "0" in branch:
            ordered = [branch[str(i)] for i in range(len(branch))]
            out[name] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ordered)
        else:
            out[name] = stack(branch) if isinstance(branch, dict) else branch
    return out


def unstack(tree: dict) -> dict:
    """The unrolled form of a parameter tree: `blocks/...` [L,...] become `blocks/{i}/...`."""
    out = {}
    for name, branch in tree.items():
        if name == "blocks" and "0" not in branch:
            count = jax.tree.leaves(branch)[0].shape[0]
            pick = lambda i: jax.tree.map(lambda leaf: leaf[i], branch)
            out[name] = {str(i): pick(i) for i in range(count)}
        else:
            out[name] = unstack(branch) if isinstance(branch, dict) else branch
    return out
