"""Log-probabilities of target tokens without the whole [B,T,V] of logits.

Losses, perplexity and preference objectives share these. The head is applied to chunks of time; each
chunk's logits are made again in the backward pass, so memory is that of one chunk.
"""

import functools

import jax
import jax.numpy as jnp

CELLS = 1 << 26  # logits in a chunk: 256 MiB of float32


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def pick(logits, targets, smooth=0.0):
    """log softmax(logits)[target]: float32 [...,V], int32 [...] -> float32 [...].

    With `smooth` e it is (1 - e) times that plus e times the mean over the vocabulary: minus the
    cross-entropy with smoothed labels (Szegedy et al. 2016, section 7; Vaswani et al. 2017, 5.4).
    The gradient is the closed form, (labels - softmax), from the saved logits; autodiff of
    log_softmax and a gather costs two more passes over the logits.
    """
    return _pick(logits, targets, smooth)[0]


def _pick(logits, targets, smooth):
    total = jax.nn.logsumexp(logits, -1)
    chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    if smooth:
        chosen = (1 - smooth) * chosen + smooth * jnp.mean(logits, -1)
    return chosen - total, (logits, targets, total)


def _unpick(smooth, saved, g):
    logits, targets, total = saved
    g = g[..., None]
    hit = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    probs = jnp.exp(logits - total[..., None])
    rest = -g * probs
    if smooth:
        rest = rest + g * (smooth / logits.shape[-1])
    return jnp.where(hit == targets[..., None], rest + (1 - smooth) * g, rest), None


pick.defvjp(_pick, _unpick)


def token_log_probs(head, x, targets, chunk: int = 0, smooth: float = 0.0):
    """log p(target) in float32 [B,T], from hidden states x [B,T,D] and targets [B,T].

    `head` maps [B,t,D] to float32 logits [B,t,V], usually a model's `logits`. `chunk` is the number
    of time steps whose logits exist at once; 0 takes as many as make `CELLS` logits; `smooth` is
    `pick`'s. Differentiable in x and in whatever `head` closes over.
    """
    batch, time, width = x.shape
    if not chunk:
        vocab = jax.eval_shape(head, jax.ShapeDtypeStruct((1, 1, width), x.dtype)).shape[-1]
        chunk = max(1, CELLS // (batch * vocab))
    if chunk >= time:
        return pick(head(x), targets, smooth)
    count = -(-time // chunk)
    chunk = -(-time // count)
    pad = count * chunk - time

    def split(a):
        a = jnp.pad(a, [(0, 0), (0, pad)] + [(0, 0)] * (a.ndim - 2))
        return jnp.moveaxis(a.reshape(batch, count, chunk, *a.shape[2:]), 1, 0)

    @jax.checkpoint
    def one(part):
        return pick(head(part[0]), part[1], smooth)

    out = jax.lax.map(one, (split(x), split(targets)))
    return jnp.moveaxis(out, 0, 1).reshape(batch, count * chunk)[:, :time]


def of_tokens(model, variables, batch, temperature: float = 1.0, vocab: int = 0, last=0, **more):
    """(log p of every token of `batch["tokens"]` given those before it [B,T], what `features` gives).

    The first slot is 0. `last` > 0 asks for that many tokens at the end alone, [B,last], and spares the
    head of the others. batch: what the model's `features` reads. The logits are divided by
    `temperature`, as they are in sampling, and ids from `vocab` on (rows that only fill up a table)
    are left out where it is given; `more` goes to `apply`.
    """
    spared = {"last": last + 1} if last else {}
    x, out = model.apply(variables, batch, method="features", **spared, **more)

    def head(x):
        logits = model.apply(variables, x, method="logits") / temperature
        if 0 < vocab < logits.shape[-1]:
            logits = jnp.where(jnp.arange(logits.shape[-1]) < vocab, logits, -1e9)
        return logits

    if last:
        return token_log_probs(head, x[:, -last - 1 : -1], batch["tokens"][:, -last:]), out
    found = token_log_probs(head, x[:, :-1], batch["tokens"][:, 1:])
    return jnp.pad(found, ((0, 0), (1, 0))), out
