"""GPT-2's loss as plain functions over our parameter tree: the step that Linen's overhead is told by.

Everything that computes is shared with the modules (`models.products`, `models.gradients`, the attend
functions, the chunked loss); only the module system is missing. Options that this form does not have are
an error.
"""

import functools
import math

import jax
import jax.numpy as jnp

from models import attention, positions
from models.activations import ACTIVATIONS
from models.gradients import add_bias, layer_norm
from models.masks import Mask
from models.options import Options
from models.products import product
from models.transformer import POLICIES, policy
from train.core import losses

FIXED = {
    "norm": "layer", "norm_place": "pre", "positions": "learned", "gated": False, "experts": 0,
    "tied": True, "head_bias": False, "embed_norm": False, "embed_scale": False, "scan": False,
    "score_scale": "sqrt", "scale_by_layer": False, "final_norm": True, "q_bias": True,
    "k_bias": True, "v_bias": True, "o_bias": True, "mlp_bias": True, "pattern": ("global",),
    "head": "lm",
}  # fmt: skip


def project(equation, p, x, dtype):
    """A projection with its bias."""
    return add_bias(product(equation, x, p["kernel"], dtype), p["bias"])


def norm(p, x, eps):
    return layer_norm(x, p["scale"], p["bias"], eps)


def block(o: Options, p, x):
    """x [B,T,D] through one pre-norm block."""
    h = norm(p["attn_norm"], x, o.norm_eps)
    q, k, v = (project("btd,dhk->bthk", p["attn"][name], h, o.dtype) for name in "qkv")
    mask = Mask(o.causal)
    attend = attention.choose(o, mask, q.shape[1], False, False, False)
    out, _ = attend(q, k, v, mask, 1.0 / math.sqrt(o.size), None, 0.0, None, o.dtype)
    x = x + project("bthk,hkd->btd", p["attn"]["o"], out, o.dtype)
    h = norm(p["mlp_norm"], x, o.norm_eps)
    h = ACTIVATIONS[o.act](project("btd,df->btf", p["mlp"]["up"], h, o.dtype))
    return x + project("btf,fd->btd", p["mlp"]["down"], h, o.dtype)


def features(o: Options, params, tokens):
    """Hidden states [B,T,D] after the final norm."""
    start = jnp.zeros((tokens.shape[0],), jnp.int32)
    places = positions.default(jnp.ones_like(tokens), start)
    x = params["embed"]["tokens"]["embedding"][tokens].astype(o.activations)
    x = x + params["embed"]["positions"]["embedding"].astype(x.dtype)[places]
    one = functools.partial(block, o)
    if policy(o) != "none":
        one = jax.checkpoint(one, policy=POLICIES[policy(o)])
    for layer in range(o.layers):
        x = one(params["blocks"][str(layer)], x)
    return norm(params["norm"], x, o.norm_eps)


def loss(o: Options):
    """A `Task.loss` (see `train.core.state`). ValueError for an option that this form lacks."""
    for name, value in FIXED.items():
        if getattr(o, name) != value:
            raise ValueError(f"the plain form has model.{name}={value!r} only")
    if o.dropout:
        raise ValueError("the plain form has no dropout")

    def run(params, frozen, extra, batch, rng, totals):
        head = lambda x: product(
            "abd,vd->abv", x.astype(jnp.float32), params["embed"]["tokens"]["embedding"], o.dtype
        )
        x = features(o, params, batch["tokens"])
        value, sums = losses.cross_entropy(
            head, x, batch["targets"], batch["weights"], totals["targets"]
        )
        return value, (extra, sums)

    return run
