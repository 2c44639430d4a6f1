"""Small models of every decoder family that the tests share."""

import functools

import jax
import jax.numpy as jnp

from models import families, transformer
from models.build import build
from models.options import Options

SHAPES = {
    "gpt1": {},
    "gpt2": {"scale_by_layer": True},
    "gpt3": {"window": 4},
    "llama": {"kv_heads": 2, "ff": 40, "rope_scaling": "llama3", "rope_original": 16},
    "moe": {"kv_heads": 2, "ff": 24, "experts": 5, "embed_scale": True},
}
NAMES = sorted(SHAPES)


def options(name: str, **changes) -> Options:
    shape = dict(layers=3, width=32, heads=4, vocab=61, context=64)
    return Options.of(families.row(name, **{**shape, **SHAPES[name], **changes}))


def tokens(batch: int = 2, time: int = 12, seed: int = 1):
    return jax.random.randint(jax.random.key(seed), (batch, time), 0, 61)


def model(name: str, **changes):
    """(options, module, variables) with weights ten times larger, so that errors show."""
    o = options(name, **changes)
    module = build(o)
    variables = jax.jit(module.init)(jax.random.key(0), {"tokens": tokens()})
    return o, module, jax.tree.map(lambda w: w * 5 if w.ndim > 1 else w, variables)


def close(a, b, tolerance=2e-5):
    """The largest difference, relative to the larger of 1 and the spread of b."""
    a, b = jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    assert a.shape == b.shape
    return float(jnp.abs(a - b).max()) <= tolerance * max(1.0, float(jnp.std(b)))


@functools.cache
def apply(module):
    """The module's jitted `apply`, compiled once for all tests of a shape."""
    return jax.jit(module.apply, static_argnames=("method", "mutable"))


def forms_agree(o: Options, values, images) -> bool:
    """Whether scores of images and their gradients are the same scanned (rematerialised) and apart, with
    the same dropout."""
    results, key = [], jax.random.key(5)
    for scan in (False, True):
        module = build(o.replace(scan=scan, remat="full" if scan else "none"))
        params = transformer.stack(values["params"]) if scan else values["params"]

        def loss(params, x, module=module):
            out = module.apply({"params": params}, {"images": x}, rngs={"dropout": key})
            return jnp.sum(out["scores"] ** 2)

        value, grads = jax.jit(jax.value_and_grad(loss))(params, images)
        results.append((value, transformer.unstack(grads) if scan else grads))
    (one, first), (two, second) = results
    same = jax.tree.map(lambda a, b: close(a, b, 1e-4), first, second)
    return bool(close(one, two)) and all(jax.tree.leaves(same))
