"""What is read off the hidden states: the language head and the head on one pooled token."""

import flax.linen as nn
import jax.numpy as jnp

from models.gradients import product
from models.layers import ACTIVATIONS, drop, normal
from models.options import Options


class LanguageHead(nn.Module):
    """Logits over the vocabulary in float32: x [...,D] -> [...,V], by the token table if tied."""

    o: Options

    @nn.compact
    def __call__(self, x, table=None):
        o = self.o
        lead = "abc"[: x.ndim - 1]
        if o.tied:
            kernel, order = table, "vd"
        else:
            kernel = self.param("kernel", normal(o.init_std), (o.width, o.vocab), jnp.float32)
            order = "dv"
        x = x.astype(jnp.float32)
        logits = product(f"{lead}d,{order}->{lead}v", x, kernel, o.dtype)
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
        kernel = self.param("kernel", normal(o.init_std), (o.width, o.labels), jnp.float32)
        scores = jnp.einsum("bd,dc->bc", pooled.astype(o.dtype), kernel.astype(o.dtype))
        if o.score_bias:
            scores = scores + self.param("bias", nn.initializers.zeros_init(), (o.labels,))
        return ACTIVATIONS[o.score_act](scores.astype(jnp.float32))
