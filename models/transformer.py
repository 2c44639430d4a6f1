"""The block and the stack of blocks, in two forms of one tree.

Unrolled layers are apart (`blocks/7/attn/q/kernel`), scanned ones stacked
(`blocks/attn/q/kernel [L,...]`); `stack` and `unstack` convert. Both give the same numbers.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.attention import Attention
from models.layers import Experts, FeedForward, Norm, drop, site
from models.options import Options

POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(nn.Module):
    """Attention and feed-forward, each in a residual branch, normed before or after.

    pre: x + f(norm(x)) (Radford et al. 2019). post: norm(x + f(x)) (Vaswani et al. 2017).
    `state` holds `x` [B,T,D] and, when decoding, the cache's `k` and `v`; returns the new state and
    what this layer gives: `maps` and `hidden` if asked for, `router` if it has experts.
    """

    o: Options
    kind: str = "global"

    @nn.compact
    def __call__(self, state, layer, ctx):
        o, x, key = self.o, state["x"], layer.get("key")
        memory = {"k": state["k"], "v": state["v"]} if "k" in state else None
        pre = o.norm_place == "pre"
        attn_norm, mlp_norm = Norm(o, name="attn_norm"), Norm(o, name="mlp_norm")
        out = {}

        attention = Attention(o, self.kind, name="attn")
        y, weights, memory = attention(attn_norm(x) if pre else x, layer, ctx, memory)
        x = x + drop(y, o.drop_resid, site(key, 1))
        x = x if pre else attn_norm(x)
        if o.experts:
            y, sums = Experts(o, name="mlp")(mlp_norm(x) if pre else x, ctx["real"])
            out["router"] = {k: v for k, v in sums.items() if k != "logits" or "stats" in ctx}
        else:
            y = FeedForward(o, name="mlp")(mlp_norm(x) if pre else x)
        x = x + drop(y, o.drop_resid, site(key, 2))
        x = x if pre else mlp_norm(x)
        if "maps" in ctx:
            out["maps"] = weights
        if "hidden" in ctx:
            out["hidden"] = x
        return {"x": x, **(memory or {})}, out


def _block(o: Options):
    """The block's class, rematerialised as the options say."""
    if o.remat == "none":
        return Block
    return nn.remat(Block, policy=POLICIES[o.remat], prevent_cse=not o.scan)


class Stack(nn.Module):
    """The layers apart. The cache's `k` and `v` are tuples of L arrays."""

    o: Options

    @nn.compact
    def __call__(self, state, layers, ctx):
        o, outs, memory = self.o, [], {"k": [], "v": []}
        x = state["x"]
        for i, kind in enumerate(o.kinds()):
            mine = {"x": x}
            if "k" in state:
                mine.update(k=state["k"][i], v=state["v"][i])
            layer = {"index": jnp.int32(i)}
            if "key" in layers:
                layer["key"] = layers["key"][i]
            mine, out = _block(o)(o, kind, name=str(i))(mine, layer, ctx)
            x = mine["x"]
            outs.append(out)
            for name in memory:
                memory[name].append(mine.get(name))
        new = {"x": x}
        if "k" in state:
            new.update({name: tuple(values) for name, values in memory.items()})
        return new, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)


def blocks(o: Options) -> nn.Module:
    """The stack, scanned or unrolled: called with (state, layers, ctx), see `layers`."""
    if not o.scan:
        return Stack(o)
    scanned = nn.scan(
        _block(o),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        length=o.layers,
    )
    return scanned(o)


def layers(o: Options, key=None) -> dict:
    """What differs by layer, stacked: `index` [L], `key` [L] with dropout, `kind` [L] if it varies.

    Dropout keys are folded by layer index, so that both forms drop the same entries.
    """
    index = jnp.arange(o.layers, dtype=jnp.int32)
    out = {"index": index}
    if key is not None:
        out["key"] = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    if "local" in o.kinds():
        out["kind"] = jnp.asarray([int(kind == "local") for kind in o.kinds()], jnp.int32)
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
