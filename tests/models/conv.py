"""Small convolutional nets that the tests share."""

import jax
import jax.numpy as jnp

from models import families
from models.build import build
from models.options import Options

SHAPES = {
    "resnet": dict(depths=(2, 1), widths=(8, 12), strides=(1, 2), stem=(6,), labels=5),
    "efficientnet": dict(
        depths=(1, 2), widths=(8, 12), strides=(1, 2), kernels=(3, 5), expands=(1, 4), stem=(8,),
        top=16, labels=5, drop_head=0.0, drop_path=0.0,
    ),
}  # fmt: skip


def options(family: str, **changes) -> Options:
    size = {"resnet": "18", "efficientnet": "b0"}[family]
    return Options.of(families.row(family, size, **{**SHAPES[family], "image_size": 24, **changes}))


def images(rows: int = 4, side: int = 24, seed: int = 1):
    return {"images": jax.random.normal(jax.random.key(seed), (rows, side, side, 3))}


def model(family: str, **changes):
    """(options, module, variables)."""
    o = options(family, **changes)
    module = build(o)
    return o, module, jax.jit(module.init)(jax.random.key(0), images())


def loss(module, variables, batch, mutable=()):
    """(sum of squared scores / rows, the new batch statistics or {})."""
    out = module.apply(variables, batch, mutable=list(mutable))
    out, new = out if mutable else (out, {})
    return jnp.mean(jnp.sum(out["scores"] ** 2, -1)), new
