"""A state as it is written: nested dicts of arrays under per-layer names, and back.

Optimisers keep tuples in tuples; written as dicts keyed by field or number, a state can be compared,
and a difference named, without the library that made it. Stacked blocks (`blocks/attn/q/kernel [L,...]`)
are written apart (`blocks/7/attn/q/kernel`), so that a run may change form; slicing and stacking change
no bit.
"""

import jax

from models.transformer import stack, unstack
from train.core import shard
from train.core.state import State

GROUPS = ("params", "ema", "extra", "guard", "ema_extra")


def nest(tree) -> dict:
    """Any pytree as nested dicts with string keys; what has no leaves disappears."""
    out = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        *parents, last = shard.path(keys).split("/")
        branch = out
        for name in parents:
            branch = branch.setdefault(name, {})
        branch[last] = leaf
    return out


def flat(tree) -> dict:
    """{path: leaf} of a tree."""
    return {shard.path(keys): x for keys, x in jax.tree_util.tree_leaves_with_path(tree)}


def apart(tree: dict) -> dict:
    """Per-layer names, wherever the leaves of stacked blocks share one leading axis."""
    out = {}
    for name, branch in tree.items():
        if name == "blocks" and "0" not in branch:
            whole = len({leaf.shape[:1] or None for leaf in jax.tree.leaves(branch)} | {None}) == 2
            out[name] = unstack({name: branch})[name] if whole else branch
        else:
            out[name] = apart(branch) if isinstance(branch, dict) else branch
    return out


def groups(state: State) -> dict:
    """{group: nested dict} of a state, each in its own form; empty parts are left out."""
    out = {name: nest(getattr(state, name)) for name in GROUPS}
    out["train"] = {"step": state.step, **nest({"opt_state": state.opt_state})}
    out["train"].update(nest({"carry": state.carry}))
    return {name: part for name, part in out.items() if part}


def stored(state: State) -> dict:
    """The written form of a state of arrays, made on the device."""
    own = groups(state)
    written = jax.eval_shape(apart, own)
    return own if flat(written).keys() == flat(own).keys() else jax.jit(apart)(own)


def stored_shapes(abstract: State, mesh, rules=shard.RULES) -> dict:
    """The written form of a state of shapes, each with its sharding."""
    written = jax.eval_shape(apart, groups(abstract))
    where = shard.like(written, written["params"], mesh, rules)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), written, where
    )


def joined(written: dict, abstract: State) -> State:
    """A state with the structure of `abstract` from its written form; pure."""
    leaves = flat(back(written, groups(abstract)))
    parts = {name: _fill(getattr(abstract, name), leaves, name) for name in GROUPS}
    for name in ("opt_state", "carry"):
        parts[name] = _fill(getattr(abstract, name), leaves, f"train/{name}")
    return State(step=leaves["train/step"], **parts)


def unstored(written: dict, abstract: State, shardings: State) -> State:
    """A state with the structure of `abstract` and laid out by `shardings`, from its written form."""
    return jax.jit(lambda w: joined(w, abstract), out_shardings=shardings)(written)


def _fill(tree, leaves, prefix):
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: leaves[f"{prefix}/{shard.path(keys)}"], tree
    )


def back(written: dict, like: dict) -> dict:
    """The written form in the form of `like`: blocks stacked where `like` has them stacked."""
    out = {}
    for name, branch in like.items():
        given = written[name]
        if name == "blocks" and "0" in given and "0" not in branch:
            out[name] = stack({name: given})[name]
        else:
            out[name] = back(given, branch) if isinstance(branch, dict) else given
    return out


def replaced(params, taken: dict):
    """Parameters with those that `taken` names ({per-layer path: array}) put in their place."""
    own = nest(params)
    written = jax.tree_util.tree_map_with_path(
        lambda keys, x: taken.get(shard.path(keys), x), apart(own)
    )
    leaves = flat(back(written, own))
    return jax.tree_util.tree_map_with_path(lambda keys, _: leaves[shard.path(keys)], params)
