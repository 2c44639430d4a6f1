"""One step of a model with its cache: what decoding repeats."""

import dataclasses
import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import cache as caches
from models.products import ROWS, TURNED, few
from models.settings import Settings

HELD = 2**30  # bytes of turned kernels that are kept from one call to the next at most
STEPS = 8  # new tokens from which on turning the kernels pays
WAITING = ("encoded", "encoded_mask")  # what a cache holds of a source before the first step


@dataclasses.dataclass(frozen=True)
class Step:
    """The step of a model whose whole memory is its cache.

    An encoder-decoder's source waits there, encoded, for the first step, which keeps its keys and
    values for each layer. Where each prompt becomes a few rows, the first step leaves the kernels turned
    (`models.products`) in the cache as well, and the later ones multiply by those.
    """

    model: nn.Module

    def cache(self, rows: int, slots: int, params=None, source=None, settings=None):
        """An empty cache in the type that the model computes in.

        An encoder-decoder needs its parameters and the source, {"tokens" or "frames", "mask"}. Kernels
        are turned if `settings` are given and ask for a few rows and enough steps to make up for it.
        """
        o = self.model.o
        low = jnp.dtype(o.dtype)
        turned = {TURNED: {}} if settings and self.pays(rows, settings) else {}
        if source is None:
            return {**caches.init(o, rows, slots, low), **turned}
        cache = caches.init(o, rows, slots, low, source["mask"].shape[1])
        encoded = self.model.apply(params, source, method="encode")
        return {**cache, **turned, "encoded": encoded, "encoded_mask": source["mask"]}

    def pays(self, rows: int, s: Settings) -> bool:
        """Whether turning the kernels pays for what the settings ask of so many prompts."""
        rows, low = rows * max(s.num_beams, s.num_return_sequences), jnp.dtype(self.model.o.dtype)
        return not self.model.o.scan and few(rows, low) and s.max_new_tokens >= STEPS

    def __call__(self, params, tokens, mask, cache):
        side = "decoder_" if self.model.o.kind == "encdec" else ""
        source = {name: cache[name] for name in WAITING if name in cache}
        turned, mutable = cache.get(TURNED), False
        if turned:
            params = {**params, TURNED: turned}
        elif turned is not None and TURNED not in params:
            mutable = [TURNED]
        cache = {k: v for k, v in cache.items() if k not in (*WAITING, TURNED)}
        batch = {f"{side}tokens": tokens, f"{side}mask": mask, **source}
        out = self.model.apply(params, batch, cache, method=_last, mutable=mutable)
        (logits, cache), made = out if mutable else (out, {TURNED: turned} if turned else {})
        return logits, {**cache, **made}


def _last(model, batch, cache):
    """The logits of the last slot, and the cache."""
    x, out = model.features(batch, cache=cache)
    return model.logits(x[:, -1]), out["cache"]


def _turn(step, variables):
    o, one = step.model.o, jnp.ones((1, 1), jnp.int32)
    source = None
    if o.kind == "encdec":
        seen = {"frames": jnp.zeros((1, 2, o.frames))} if o.frames else {"tokens": one}
        source = {**seen, "mask": one}
    cache = {**step.cache(1, 2, variables, source), TURNED: {}}
    return step(variables, one, one, cache)[1][TURNED]


_turned = jax.jit(_turn, static_argnames=("step",))


def turned(model, variables, instead: bool = False) -> dict:
    """The variables with their kernels turned as well (`models.products`), for those who decode a few
    rows again and again: each call turns them otherwise. They take as much memory once more.

    instead: in place of those kernels, for those who do nothing but decode: then one row gains as well, and
    they take no more memory, once the caller has let go of `variables`. As they are for a scanned model
    (see `apart`) and where nothing would be gained.
    """
    if model.o.scan or not few(ROWS, jnp.dtype(model.o.dtype)):
        return variables
    made = variables.get(TURNED) or _turned(Step(model), variables)
    if instead:
        variables = {**variables, "params": _without(variables["params"], made)}
    return {**variables, TURNED: made}


def _without(tree: Mapping, made: Mapping) -> dict:
    """The tree without the leaves that `made` has."""
    kept = {}
    for name, x in tree.items():
        if isinstance(x, Mapping):
            if inner := _without(x, made.get(name, {})):
                kept[name] = inner
        elif name not in made:
            kept[name] = x
    return kept


class Again:
    """Turned kernels of parameters that change between calls: in the same memory each time, which costs
    less than memory that the system has to clear. Up to `HELD` bytes stay taken between the calls.

    Called with variables, how many rows are decoded and the settings, it gives the variables with their
    kernels turned, or as they are where that does not pay. What an earlier call gave is overwritten.
    """

    def __init__(self, model):
        self.step, self._held = Step(model), None
        fill = lambda variables, held: _turn(self.step, variables)
        self._fill = jax.jit(fill, donate_argnames=("held",), keep_unused=True)

    def __call__(self, variables, rows: int, settings: Settings) -> dict:
        if not self.step.pays(rows, settings):
            return variables
        held, self._held = self._held, None
        if held is None:
            shapes = jax.eval_shape(functools.partial(_turn, self.step), variables)
            held = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        made = self._fill(variables, held)
        if sum(x.nbytes for x in jax.tree.leaves(made)) <= HELD:
            self._held = made
        return {**variables, TURNED: made}
