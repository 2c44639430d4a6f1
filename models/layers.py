"""The small parts: projections by einsum, norms, feed-forward layers plain, gated and expert.

Parameters are float32; matrix products run in `o.dtype`, norm statistics and the router in float32.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models import batchnorm
from models.activations import ACTIVATIONS
from models.dropout import drop
from models.gradients import add_bias, layer_norm, rms_norm
from models.initial import deviation
from models.options import Options
from models.products import own, project


def normal(std: float):
    """N(0, std) as an initialiser; `std` is absolute, not scaled by a fan-in."""
    return nn.initializers.normal(std)


class Projection(nn.Module):
    """`einsum(equation, x, kernel) + bias`, the only linear map of the project.

    The kernel has `shape`, the bias the shape of its last `bias_axes` axes (none if 0).
    """

    equation: str
    shape: tuple
    bias_axes: int
    std: float
    dtype: str

    def setup(self):
        self.kernel = own(self, normal(self.std), self.shape)
        if self.bias_axes:
            shape = self.shape[-self.bias_axes :]
            self.bias = self.param("bias", nn.initializers.zeros_init(), shape, jnp.float32)

    def __call__(self, x):
        y = project(self, self.equation, x, self.kernel, self.shape, self.dtype)
        return add_bias(y, self.bias) if self.bias_axes else y


class Norm(nn.Module):
    """Layer normalisation (Ba et al. 2016) or RMS normalisation (Zhang and Sennrich 2019).

    Statistics over the last axis in float32; the result has the dtype of `x`. The RMS form casts
    before it multiplies by its scale, as the LLaMA reference does. "batch" normalises each channel
    over all other axes instead, see `models.batchnorm`. `zero` starts the scale at 0.
    """

    o: Options
    zero: bool = False

    @nn.compact
    def __call__(self, x):
        first = nn.initializers.constant(0.0 if self.zero else 1.0)
        scale = self.param("scale", first, (x.shape[-1],), jnp.float32)
        if self.o.norm == "rms":
            return rms_norm(x, scale, self.o.norm_eps)
        bias = self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],), jnp.float32)
        if self.o.norm == "batch":
            return batchnorm.normalise(self, x, scale, bias)
        return layer_norm(x, scale, bias, self.o.norm_eps)


class FeedForward(nn.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) if gated (Shazeer 2020). x [B,T,D].

    With a `key`, what `down` reads is dropped at the rate `o.drop_act`.
    """

    o: Options

    @nn.compact
    def __call__(self, x, key=None):
        o, d, f = self.o, self.o.width, self.o.hidden
        bias = int(o.mlp_bias)
        inner = lambda name: Projection(
            "btd,df->btf", (d, f), bias, deviation(o, name), o.dtype, name=name
        )
        h = inner("up")(x)
        act = ACTIVATIONS[o.act]
        h = act(inner("gate")(x)) * h if o.gated else act(h)
        down = Projection("btf,fd->btd", (f, d), bias, deviation(o, "down"), o.dtype, name="down")
        return down(drop(h, o.drop_act, key))


class Experts(nn.Module):
    """A mixture of experts with Mixtral's router (Jiang et al. 2024, section 2.1).

    Softmax over all experts in float32, the top k of them divided by their sum; no token is ever
    dropped: rows are sorted by expert and each expert multiplies its own (`jax.lax.ragged_dot`).
    `real` [B,T] marks the tokens that count in the load-balancing sums, which are returned:
    `probs` [E] summed router probabilities, `counts` [E] assignments, `tokens` their number and
    `logits` [B,T,E]. The loss itself is `train.core.losses.balance`.
    """

    o: Options

    @nn.compact
    def __call__(self, x, real):
        o, (batch, time, d) = self.o, x.shape
        e, f, k = o.experts, o.hidden, o.experts_per_token
        router = Projection(
            "btd,de->bte", (d, e), 0, deviation(o, "router"), "float32", name="router"
        )
        logits = router(x.astype(jnp.float32))
        probs = jax.nn.softmax(logits, -1)
        weights, chosen = jax.lax.top_k(probs, k)
        weights = weights / jnp.sum(weights, -1, keepdims=True)

        flat = chosen.reshape(-1)
        order = jnp.argsort(flat)
        sizes = jnp.bincount(flat, length=e).astype(jnp.int32)
        rows = x.reshape(-1, d)[order // k]
        h = _Grouped((e, d, f), deviation(o, "up"), o.dtype, name="up")(rows, sizes)
        if o.gated:
            gate = _Grouped((e, d, f), deviation(o, "gate"), o.dtype, name="gate")(rows, sizes)
            h = ACTIVATIONS[o.act](gate) * h
        else:
            h = ACTIVATIONS[o.act](h)
        y = _Grouped((e, f, d), deviation(o, "down"), o.dtype, name="down")(h, sizes)
        y = jnp.zeros_like(y).at[order].set(y).reshape(batch, time, k, d)
        y = jnp.einsum("btkd,btk->btd", y, weights.astype(y.dtype))

        real = real.astype(jnp.float32)
        hits = jax.nn.one_hot(chosen, e, dtype=jnp.float32).sum(2)
        sums = {
            "probs": jnp.einsum("bte,bt->e", probs, real),
            "counts": jnp.einsum("bte,bt->e", hits, real),
            "tokens": real.sum(),
            "logits": logits,
        }
        return y, sums


class _Grouped(nn.Module):
    """One matrix per expert, applied to rows [N, in] that are sorted by expert, `sizes` [E] each."""

    shape: tuple
    std: float
    dtype: str

    @nn.compact
    def __call__(self, rows, sizes):
        kernel = self.param("kernel", normal(self.std), self.shape, jnp.float32)
        return jax.lax.ragged_dot(rows.astype(self.dtype), kernel.astype(self.dtype), sizes)
