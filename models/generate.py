"""Generation: prefill and cached decoding in one compiled function.

The core knows no model: `step(params, tokens [R,t], mask [R,t], cache) -> (logits of the last slot
[R,V], cache)` reads tokens and writes the cache. Rows are independent: what a row gets is a function
of its own prompt and seed, not of the other rows or of how far it is padded.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np

from models import beam, prompts, sampling
from models import cache as caches
from models.settings import Settings
from models.step import Step
from models.transformer import unstack


@flax.struct.dataclass
class Generated:
    """What came out, for R = rows * num_return_sequences rows; copies of a row are neighbours.

    sequences [R, T + new]: the prompts, then the new tokens, padded after EOS; lengths [R]: new
    tokens, EOS included; stopped [R]: by EOS or a stop string, not by length; steps: the decoding
    steps that were made. log_probs [R,new] are of the model's own distribution, the softmax of its
    raw logits, as are `top` ([R,new,n] log-probabilities and ids) and what a teacher-forced pass
    gives; sample_log_probs [R,new] are of the processed distribution that the token was drawn from
    (at temperature 0: with penalties, without filters). Both are 0 after the end. sequences_scores
    [R]: of beams. scores [steps,R,V]: processed, before the softmax (beams: [steps,B*beams,V],
    log-probabilities).
    """

    sequences: jax.Array
    lengths: jax.Array
    stopped: jax.Array
    steps: jax.Array
    log_probs: jax.Array
    sample_log_probs: jax.Array
    sequences_scores: jax.Array | None = None
    scores: jax.Array | None = None
    top: tuple | None = None
    prompt: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def finish(self) -> list:
        """The reason each row ended: "stop" or "length"."""
        return ["stop" if stopped else "length" for stopped in np.asarray(self.stopped)]

    def new(self) -> list:
        """The new tokens of each row as numpy arrays, cut to their lengths."""
        rows, lengths = np.asarray(self.sequences), np.asarray(self.lengths)
        return [row[self.prompt : self.prompt + n] for row, n in zip(rows, lengths, strict=True)]

    def cropped(self) -> np.ndarray:
        """`sequences` without the columns that no row reached, as the reference returns them."""
        return np.asarray(self.sequences)[:, : self.prompt + int(np.max(self.lengths))]


def start(
    step, params, cache, tokens, mask, keys, s: Settings, reorder=caches.reorder, limits=None
) -> dict:
    """Reads the left-padded prompts tokens, mask [B,T] and picks the first new token of each row.

    The cache needs T + max_new_tokens slots. keys: [B * num_return_sequences], or None without
    sampling. limits [B]: see `generate`. Returns the state that `advance` carries.
    """
    logits, cache = step(params, tokens, mask, cache)
    prompt, new = tokens.shape[1], s.max_new_tokens
    if s.num_return_sequences > 1:
        rows = jnp.repeat(jnp.arange(tokens.shape[0]), s.num_return_sequences)
        logits, cache = logits[rows], reorder(cache, rows)
        tokens, mask = tokens[rows], mask[rows]
    count, vocab = logits.shape
    state = {
        "cache": cache,
        "keys": keys,
        "step": jnp.int32(0),
        "tokens": jnp.pad(tokens, ((0, 0), (0, new)), constant_values=s.fill).astype(jnp.int32),
        "mask": jnp.pad(mask.astype(bool), ((0, 0), (0, new))),
        "done": jnp.zeros((count,), bool),
        "stopped": jnp.zeros((count,), bool),
        "lengths": jnp.zeros((count,), jnp.int32),
        "log_probs": jnp.zeros((count, new), jnp.float32),
        "sample_log_probs": jnp.zeros((count, new), jnp.float32),
    }
    if limits is not None:
        state["limits"] = jnp.repeat(limits, s.num_return_sequences)
    if s.scores:
        state["scores"] = jnp.zeros((new, count, vocab), jnp.float32)
    if s.top_log_probs:
        shape = (count, new, s.top_log_probs)
        state["top"] = (jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.int32))
    return _pick(state, logits, prompt, s)


def advance(step, params, state: dict, prompt: int, s: Settings, until=None) -> dict:
    """Decodes until every row is done or `until` tokens were picked (default max_new_tokens)."""
    until = s.max_new_tokens if until is None else jnp.minimum(until, s.max_new_tokens)

    def going(state):
        return (state["step"] < until) & ~state["done"].all()

    def body(state):
        slot = prompt + state["step"] - 1
        last = jax.lax.dynamic_slice_in_dim(state["tokens"], slot, 1, 1)
        logits, cache = step(params, last, jnp.ones_like(last), state["cache"])
        return _pick({**state, "cache": cache}, logits, prompt, s)

    return jax.lax.while_loop(going, body, state)


def _pick(state, logits, prompt, s):
    """Writes the next token of each row, chosen from the model's logits [R,V]."""
    now = state["step"]
    history = sampling.History(state["tokens"], state["mask"], prompt, now)
    scores = sampling.process(logits, history, s)
    if s.temperature:
        scores = sampling.warp(scores, s)
        token = sampling.largest(scores + sampling.noise(state["keys"], now, logits.shape[-1]))
    else:
        token = sampling.largest(scores)
    done, lengths = state["done"], state["lengths"] + ~state["done"]
    token = jnp.where(done, s.fill, token.astype(jnp.int32))
    ended = (
        ~done & jnp.isin(token, jnp.asarray(s.eos, jnp.int32)) if s.eos else jnp.zeros_like(done)
    )

    def note(name, values, at=(0, now)):
        at = at + (0,) * (state[name].ndim - len(at))
        return jax.lax.dynamic_update_slice(state[name], values, at)

    def chosen(logits):
        picked = jnp.take_along_axis(logits, token[:, None], -1)
        return jnp.where(done[:, None], 0.0, picked - jax.nn.logsumexp(logits, -1, keepdims=True))

    full = lengths >= state["limits"] if "limits" in state else False
    new = {
        **state,
        "step": now + 1,
        "tokens": note("tokens", token[:, None], (0, prompt + now)),
        "mask": note("mask", jnp.ones_like(done)[:, None], (0, prompt + now)),
        "done": done | ended | full,
        "stopped": state["stopped"] | ended,
        "lengths": lengths,
        "log_probs": note("log_probs", chosen(logits)),
        "sample_log_probs": note("sample_log_probs", chosen(scores)),
    }
    if s.scores:
        new["scores"] = note("scores", scores[None], (now, 0))
    if s.top_log_probs:
        best, ids = jax.lax.top_k(jax.nn.log_softmax(logits, -1), s.top_log_probs)
        at = (0, now, 0)
        values = (best[:, None], ids[:, None].astype(jnp.int32))
        new["top"] = tuple(
            jax.lax.dynamic_update_slice(old, value, at)
            for old, value in zip(state["top"], values, strict=True)
        )
    return new


def finish(state: dict, prompt: int) -> Generated:
    """The results that a state holds."""
    return Generated(
        sequences=state["tokens"],
        lengths=state["lengths"],
        stopped=state["stopped"],
        steps=state["step"],
        log_probs=state["log_probs"],
        sample_log_probs=state["sample_log_probs"],
        scores=state.get("scores"),
        top=state.get("top"),
        prompt=prompt,
    )


def sound(out: Generated) -> Generated:
    """The results again; ValueError where a token had nothing to be drawn from.

    Bans that leave no token, or a model whose logits are NaN, would give token 0. Not looked at under
    a trace, where arrays are spread over several processes, and for beams, which end by themselves.
    """
    drawn = out.sample_log_probs
    if out.sequences_scores is not None or not getattr(drawn, "is_fully_addressable", True):
        return out
    if isinstance(drawn, jax.core.Tracer) or np.isfinite(drawn).all():
        return out
    row, at = np.argwhere(~np.isfinite(np.asarray(drawn)))[0]
    why = "the model's logits are not finite"
    if np.isfinite(np.asarray(out.log_probs)[row, at]):
        why = (
            "no token is left; bad_words, no_repeat_ngram, suppress and min_new_tokens together "
            "forbid all"
        )
    raise ValueError(f"row {row}, new token {at + 1}: {why}")


def decode(step, params, cache, tokens, mask, keys, s: Settings, reorder=None, limits=None):
    """The whole of generation as a pure function: see `start` for the arguments."""
    if s.num_beams > 1:
        among = reorder or caches.among
        return Generated(**beam.search(step, params, cache, tokens, mask, keys, s, among, limits))
    state = start(step, params, cache, tokens, mask, keys, s, reorder or caches.reorder, limits)
    return finish(advance(step, params, state, tokens.shape[1], s), tokens.shape[1])


@functools.partial(jax.jit, static_argnames=("step", "s"))
def _whole(step, params, tokens, mask, keys, s, source=None, limits=None):
    cache = step.cache(tokens.shape[0], tokens.shape[1] + s.max_new_tokens, params, source, s)
    return decode(step, params, cache, tokens, mask, keys, s, limits=limits)


@functools.partial(jax.jit, static_argnames=("step", "s"))
def first(step, params, tokens, mask, keys, s, source=None):
    """`start`, compiled, with a fresh cache: for callers that look at each step."""
    cache = step.cache(tokens.shape[0], tokens.shape[1] + s.max_new_tokens, params, source, s)
    return start(step, params, cache, tokens, mask, keys, s)


@functools.partial(jax.jit, static_argnames=("step", "prompt", "s"), donate_argnames=("state",))
def proceed(step, params, state, until, prompt, s):
    """`advance`, compiled; the state is donated, so that its cache is written in place."""
    return advance(step, params, state, prompt, s, until)


def apart(model, variables):
    """The unrolled form of a scanned model and its variables; others as they are. Decoding wants it:
    each token would copy every layer out of the stack."""
    if not model.o.scan:
        return model, variables
    whole = {**variables, "params": unstack(variables["params"])}
    return model.clone(o=model.o.replace(scan=False)), whole


def generate(
    model, variables, tokens, mask=None, settings=None, seeds=None, key=None, prompt=None,
    limits=None,
) -> Generated:  # fmt: skip
    """Generates from left-padded prompts: tokens and mask [B,T] (1 = real; default: all).

    To an encoder-decoder they are the source [B,S], padded on any side (of sound: the frames
    [B,2S,M]); `prompt` [B,T] is how each target begins, by default with `o.start` alone. Sampling needs
    `seeds` (an integer per row) or a `key`. `limits` [B]: a row ends after so many new tokens, where
    that is fewer than max_new_tokens. Stop strings need text: see `models.streaming.generate`.
    ValueError for prompts that do not fit the model's context, and see `sound`.
    """
    s = settings or Settings()
    if s.stop:
        raise ValueError("stop strings need text; use models.streaming.generate")
    tokens, mask, source = prompts.given(model.o, tokens, mask, s, prompt)
    keys = prompts.row_keys(len(tokens), s, seeds, key)
    limits = None if limits is None else prompts.limits(limits, len(tokens), s)
    return sound(_whole(Step(model), variables, tokens, mask, keys, s, source, limits))
