"""What is read off the hidden states: language heads, poolers and scores."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.activations import ACTIVATIONS
from models.dropout import drop, site
from models.initial import deviation
from models.layers import Norm, Projection, normal
from models.options import Options
from models.products import own, product, project


def vocabulary(head: nn.Module, x, table):
    """Logits in float32 without a bias: x [...,U] -> [...,V], by the token table [V,U] if tied.

    Otherwise `head`, which calls this within its own `__call__`, gets a kernel [U,V].
    """
    o, lead, x = head.o, "abc"[: x.ndim - 1], x.astype(jnp.float32)
    if o.tied:
        return product(f"{lead}u,vu->{lead}v", x, table, o.dtype)
    shape = (x.shape[-1], o.vocab)
    kernel = own(head, normal(deviation(o, "head")), shape)
    return project(head, f"{lead}u,uv->{lead}v", x, kernel, shape, o.dtype)


class LanguageHead(nn.Module):
    """Logits over the vocabulary in float32: x [...,D] -> [...,V], by the token table if tied.

    `o.head_scale` divides x by sqrt(D) first, as T5 does with its table of deviation 1.
    """

    o: Options

    @nn.compact
    def __call__(self, x, table=None):
        o = self.o
        if o.head_scale:
            x = x.astype(jnp.float32) * o.width**-0.5
        logits = vocabulary(self, x, table)
        if o.head_bias:
            logits = logits + self.param("bias", nn.initializers.zeros_init(), (o.vocab,))
        return logits


def last_real(mask):
    """The slot of each row's last real token: mask [B,T] -> [B]; 0 for a row without one."""
    slots = jnp.arange(mask.shape[1])
    return jnp.max(jnp.where(mask.astype(bool), slots, 0), 1)


class ScoreHead(nn.Module):
    """Scores in float32 from the hidden state at slot `read`: x [B,T,D], read [B] -> [B,C].

    The last real token classifies a sequence in GPT-1 (Radford et al. 2018, section 3.2), GPT-2 and
    LLaMA; `o.score_act` acts on the outputs.
    """

    o: Options

    @nn.compact
    def __call__(self, x, read, key=None):
        o = self.o
        pooled = jnp.take_along_axis(x, read[:, None, None], 1)[:, 0]
        pooled = drop(pooled, o.drop_head, key)
        kernel = self.param(
            "kernel", normal(deviation(o, "score")), (o.width, o.labels), jnp.float32
        )
        scores = jnp.einsum("bd,dc->bc", pooled.astype(o.dtype), kernel.astype(o.dtype))
        if o.score_bias:
            scores = scores + self.param("bias", nn.initializers.zeros_init(), (o.labels,))
        return ACTIVATIONS[o.score_act](scores.astype(jnp.float32))


class MaskedHead(nn.Module):
    """The masked-language head: x [...,D] -> logits [...,V] in float32.

    decoder(norm(act(dense(x)))) + bias, the decoder being the token table [V,U] if tied (Devlin et
    al. 2018; the dense layer goes to the tables' width U, as in Lan et al. 2019). It may be given
    gathered positions alone.
    """

    o: Options

    @nn.compact
    def __call__(self, x, table=None):
        o = self.o
        lead = "abc"[: x.ndim - 1]
        dense = Projection(
            f"{lead}d,du->{lead}u", (o.width, o.thin), 1, deviation(o, "dense"), o.dtype,
            name="dense",
        )  # fmt: skip
        x = Norm(o, name="norm")(ACTIVATIONS[o.head_act or o.act](dense(x)))
        logits = vocabulary(self, x, table)
        return logits + self.param("bias", nn.initializers.zeros_init(), (o.vocab,), jnp.float32)


class VisualHead(nn.Module):
    """Logits of visual tokens, float32: x [...,D] -> [...,V], by a norm and a linear map (BEiT)."""

    o: Options

    @nn.compact
    def __call__(self, x):
        o, lead = self.o, "abc"[: x.ndim - 1]
        x = Norm(o, name="norm")(x).astype(jnp.float32)
        shape, std = (o.width, o.vocab), deviation(o, "head")
        kernel = self.param("kernel", normal(std), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (o.vocab,), jnp.float32)
        return product(f"{lead}d,dv->{lead}v", x, kernel, o.dtype) + bias


class Pooler(nn.Module):
    """act(dense(state)): BERT's tanh on [CLS], the same inside RoBERTa's classifier. [...,D]."""

    o: Options

    @nn.compact
    def __call__(self, state, key=None):
        o = self.o
        state = drop(state, o.drop_head if o.drop_pool else 0.0, site(key, 1))
        lead = "abc"[: state.ndim - 1]
        out = o.pool_width or o.width
        kernel = self.param("kernel", normal(deviation(o, "pool")), (o.width, out), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (out,), jnp.float32)
        state = product(f"{lead}d,de->{lead}e", state, kernel, o.dtype) + bias.astype(state.dtype)
        return ACTIVATIONS[o.pool_act](state)


class Scores(nn.Module):
    """A linear layer to C outputs in float32, after dropout: [...,D] -> [...,C]."""

    o: Options

    @nn.compact
    def __call__(self, state, key=None):
        o = self.o
        state = drop(state, o.drop_head, site(key, 2)).astype(jnp.float32)
        lead = "abc"[: state.ndim - 1]
        shape = (state.shape[-1], o.outputs)
        kernel = self.param("kernel", normal(deviation(o, "score")), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (o.outputs,), jnp.float32)
        return product(f"{lead}d,dc->{lead}c", state, kernel, o.dtype) + bias


def mean_real(x, mask):
    """The mean of the states of real tokens: x [B,T,D], mask [B,T] -> [B,D]; 0 without any."""
    mask = mask.astype(jnp.float32)[..., None]
    total = jnp.sum(x.astype(jnp.float32) * mask, 1)
    return (total / jnp.maximum(mask.sum(1), 1.0)).astype(x.dtype)


def unit(x):
    """x / |x| over the last axis, in float32; the reference clamps the norm at 1e-12."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
