"""Optimizers and schedules by name, all of them optax's, with rules by parameter path.

Regexes (`decay`, `freeze`, `multipliers`) are searched in per-layer paths such as
`blocks/7/attn/q/kernel`, whether the layers are stored apart or stacked on a leading axis
(`blocks/attn/q/kernel [L,...]`): a stacked array gets an [L] vector of factors where its layers
differ. Optimizers with a rule per tensor (Adafactor, LAMB, Muon) treat each layer of a stacked
array as a tensor of its own, so both forms make the same updates. Low-rank adapters have the decay and
the rate of the kernels that they are added to; `freeze` reads their own paths alone
(`lora/blocks/7/attn/q/kernel/a`).

The order of a step: frozen entries drop out, the global norm of the rest is clipped, the rule,
decoupled weight decay (for `lamb` inside the trust ratio, for `sgd` and `rmsprop` added to the
gradient as torch does), the learning rate, the multipliers.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.core.config import OPTIMIZERS
from train.core.errors import nearest
from train.core.schedules import schedule

_STACKED = re.compile(r"(^|/)blocks/(?!\d+(/|$))")
_ADAPTER = re.compile(r"lora/(.*)/[ab]")
_PROJECTION = re.compile(r"(^|/)(q|k|v)/(kernel|bias)$")
_OUTPUT = re.compile(r"(^|/)o/kernel$")
_HIDDEN = re.compile(r"(^|/)(q|k|v|o|up|gate|down)/kernel$")


def build(optim, steps: int, params) -> tuple:
    """(the optimizer, its schedule) for a config's `optim` section.

    `params` are arrays or shapes; only paths and shapes are read. `schedule(step) -> lr`, with step
    counted from 0. Frozen parameters have no optimiser state. ValueError names a regex that matches
    no parameter, or a freeze that leaves nothing to train.
    """
    rate = schedule(optim, steps)
    decay = None
    if optim.weight_decay:
        decay = _factors(params, ((optim.decay, optim.weight_decay),), 0.0, "optim.decay")
    parts = [_rule(optim, decay)]
    if optim.clip:
        parts.insert(0, optax.clip_by_global_norm(optim.clip))
    parts.append(optax.scale_by_learning_rate(rate))
    if optim.multipliers:
        factors = _factors(params, optim.multipliers, 1.0, "optim.multipliers")
        parts.append(_by_path(factors, lambda update, factor, _: update * factor))
    transform = optax.chain(*parts)
    if optim.freeze:
        transform = _frozen(transform, params, optim.freeze)
    return transform, rate


def _rule(optim, decay):
    """The named optimizer without clipping and learning rate; `decay` is a tree of factors."""
    name, dtype = optim.name, jnp.dtype(optim.state_dtype)
    decayed = _by_path(decay, lambda u, factor, p: u + factor * p) if decay is not None else None
    adam = optax.scale_by_adam(optim.b1, optim.b2, optim.eps, mu_dtype=dtype)
    if name == "adamw":
        parts = [adam, decayed]
    elif name == "lion":  # Chen et al. 2023
        parts = [optax.scale_by_lion(optim.b1, optim.b2, mu_dtype=dtype), decayed]
    elif name == "lamb":  # You et al. 2019; the trust ratio is per tensor
        parts = [adam, decayed, per_tensor(optax.scale_by_trust_ratio())]
    elif name == "adafactor":
        parts = [_adafactor(), optax.ema(optim.b1, False, dtype) if optim.b1 else None, decayed]
    elif name == "muon":
        parts = [_muon(optim, adam), decayed]
    elif name == "sgd":
        momentum = optax.trace(optim.b1, accumulator_dtype=dtype) if optim.b1 else None
        parts = [decayed, momentum]
    elif name == "rmsprop":  # Tieleman and Hinton 2012, with momentum as in TensorFlow
        scaled = optax.scale_by_rms(optim.b2, optim.eps, initial_scale=1.0)
        parts = [decayed, scaled, optax.trace(optim.b1, accumulator_dtype=dtype)]
    else:
        raise ValueError(f'optim.name is "{name}"; {nearest(name, OPTIMIZERS)}')
    return optax.chain(*(part for part in parts if part is not None))


def _adafactor():
    """Shazeer and Stern 2018 with relative step sizes: factored second moments, clipping at 1.

    An array is factored when its matrix view has two sides of 128 or more. Attention kernels are
    viewed as the matrices that they are (q, k, v: D x HK; o: HK x D), as in the authors' code;
    expert kernels [E,D,F] keep E as a batch of rows in one tensor. Learning rates are relative to
    the parameter's root mean square. `b1` adds a momentum, which the paper's large runs leave out.
    """
    return per_tensor(
        optax.chain(
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
        )
    )


def _muon(optim, adam):
    """Muon (Jordan et al. 2024) on the kernels inside the blocks, Adam on all else.

    A kernel is orthogonalised as a matrix: q, k, v as D x HK, o as HK x D, the experts and the
    layers of a stacked array each on their own. Updates are scaled by 0.2 sqrt(max(in, out)) (Liu
    et al. 2025), so that learning rate and decay mean what they mean for Adam. `b1` is the momentum
    of both.
    """

    def hidden(path):
        return "blocks" in path.split("/") and _HIDDEN.search(path) is not None

    def axes(path, _):
        if _OUTPUT.search(path):
            return optax.contrib.MuonDimensionNumbers((-3, -2), (-1,))
        if _PROJECTION.search(path):
            return optax.contrib.MuonDimensionNumbers((-3,), (-2, -1))
        return optax.contrib.MuonDimensionNumbers((-2,), (-1,))

    def scale(path, update):
        numbers = axes(path, update)
        sides = [np.prod([update.shape[axis] for axis in side]) for side in numbers]
        return update * (0.2 * float(np.sqrt(max(sides))))

    orthogonal = optax.contrib.scale_by_muon(
        beta=optim.b1,
        mu_dtype=jnp.dtype(optim.state_dtype),
        weight_dimension_numbers=lambda updates: map_paths(axes, updates),
    )
    shape = optax.stateless(lambda updates, _: map_paths(scale, updates))
    return optax.partition(
        {"muon": optax.chain(orthogonal, shape), "adam": adam},
        lambda tree: map_paths(lambda path, _: "muon" if hidden(path) else "adam", tree),
    )


def map_paths(function, tree):
    """`function(path, leaf)` over a tree; paths look like `blocks/0/attn/q/kernel`."""

    def apply(keys, leaf):
        return function(jax.tree_util.keystr(keys, simple=True, separator="/"), leaf)

    return jax.tree_util.tree_map_with_path(apply, tree)


def layer_paths(path: str, shape) -> list:
    """The per-layer paths that an array stands for: itself, or L of them if it is stacked."""
    found = _STACKED.search(path)
    if not found:
        return [path]
    return [f"{path[: found.end()]}{i}/{path[found.end() :]}" for i in range(shape[0])]


def per_tensor(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a per-tensor rule to each layer of a stacked array, and to kernels as matrices.

    Arrays of one depth share a vmapped state, `stacked_L`; all others are in `apart`.
    """

    def depth(path, leaf):
        return f"stacked_{leaf.shape[0]}" if _STACKED.search(path) else "apart"

    def matrix(path, leaf):
        lead = 1 if _STACKED.search(path) else 0
        shape = leaf.shape
        if _PROJECTION.search(path) and leaf.ndim - lead > 1:
            return leaf.reshape(*shape[:-2], shape[-2] * shape[-1])
        if _OUTPUT.search(path) and leaf.ndim - lead > 2:
            return leaf.reshape(*shape[:-3], shape[-3] * shape[-2], shape[-1])
        return leaf

    def groups(tree):
        """{depth: the tree with all other depths masked}, in matrix form."""
        labels = map_paths(depth, tree)
        tree = map_paths(matrix, tree)
        return {
            name: jax.tree.map(
                lambda leaf, label: leaf if label == name else optax.MaskedNode(), tree, labels
            )
            for name in sorted(set(jax.tree.leaves(labels)))
        }

    def init(params):
        return {
            name: inner.init(part) if name == "apart" else jax.vmap(inner.init)(part)
            for name, part in groups(params).items()
        }

    def update(updates, state, params):
        grads, values = groups(updates), groups(params)
        after, leaves = {}, {}
        for name, part in grads.items():
            step = inner.update if name == "apart" else jax.vmap(inner.update)
            changed, after[name] = step(part, state[name], values[name])
            leaves |= dict(_flat(changed))
        back = map_paths(lambda path, leaf: leaves[path].reshape(leaf.shape), updates)
        return back, after

    return optax.GradientTransformation(init, update)


def _flat(tree):
    rows = []
    map_paths(lambda path, leaf: rows.append((path, leaf)), tree)
    return rows


def _by_path(factors: dict, function):
    """The stateless transformation `function(update, factor, param)`, factors looked up by path."""

    def update(updates, state, params=None):
        params = updates if params is None else params
        values = dict(_flat(params))
        change = map_paths(lambda path, u: function(u, factors[path], values[path]), updates)
        return change, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _adapted(path: str) -> list:
    """The path of the kernel that half an adapter (`lora/PATH/a`) is added to: its decay and its rate."""
    found = _ADAPTER.fullmatch(path)
    return [found[1]] if found else []


def _factors(params, rules, default: float, field: str) -> dict:
    """{path: factor} of the first rule that matches; a stacked array's factor may be [L,1,...]."""
    unused = {regex for regex, _ in rules}
    result = {}
    for path, leaf in _flat(params):
        row = []
        for name in layer_paths(path, leaf.shape):
            names = [name, *_adapted(name)] if field != "optim.freeze" else [name]
            hits = [
                (regex, factor) for regex, factor in rules
                if any(re.search(regex, other) for other in names)
            ]  # fmt: skip
            unused -= {regex for regex, _ in hits}
            row.append(hits[0][1] if hits else default)
        same = len(set(row)) == 1
        shape = (-1, *(1 for _ in leaf.shape[1:]))
        result[path] = row[0] if same else np.asarray(row, np.float32).reshape(shape)
    if unused:
        some = layer_paths(*next((p, x.shape) for p, x in _flat(params)))[0]
        raise ValueError(
            f'config.{field}: "{sorted(unused)[0]}" matches no parameter; paths look like "{some}"'
        )
    return result


def trained(optim, params):
    """`mask(gradients)`, which zeroes those of frozen parameters; None where none are frozen.

    What is zeroed before anything reads it is not computed: freezing saves the backward pass.
    """
    if not optim.freeze:
        return None
    keep = _factors(params, ((optim.freeze, 0.0),), 1.0, "optim.freeze")

    def mask(path, gradient):
        factor = keep[path]
        if isinstance(factor, float):
            return gradient if factor else jnp.zeros_like(gradient)
        return gradient * factor

    return lambda gradients: map_paths(mask, gradients)


def _frozen(transform, params, regex: str):
    """The optimizer on what the regex leaves; frozen arrays have no state and zero updates.

    Where only some layers of a stacked array are frozen the array keeps its state and the frozen
    layers' gradients and updates are zeroed.
    """
    keep = _factors(params, ((regex, 0.0),), 1.0, "optim.freeze")
    partly = any(isinstance(factor, np.ndarray) for factor in keep.values())
    if all(isinstance(factor, float) and factor == 0.0 for factor in keep.values()):
        raise ValueError(f'config.optim.freeze: "{regex}" matches every parameter')
    if partly:
        zero = _by_path(keep, lambda update, factor, _: update * factor)
        transform = optax.chain(zero, transform, zero)

    def label(path, _):
        gone = isinstance(keep[path], float) and keep[path] == 0.0
        return "frozen" if gone else "trained"

    labels = map_paths(label, params)
    return optax.partition({"trained": transform, "frozen": optax.set_to_zero()}, labels)
