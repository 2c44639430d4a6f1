"""Beam search with the semantics of the reference library (transformers 5, `_beam_search`).

Of max(2, EOS ids + 1) * beams candidates only the first `beams` may finish; the others keep the
search going. A finished beam scores sum(log p) / (generated tokens, EOS included) ** length_penalty
(or by GNMT's rule, see `models.settings`), so that penalties above 0 favour long ones.
`early_stopping` True stops a row at `beams` finished ones; False stops when the best running beam,
at its present length, cannot beat the worst finished one (a heuristic); "never" asks the same of
the longest possible length if length_penalty > 0.
Penalties and bans act on log-probabilities here, on logits elsewhere, as in the reference; which also
fills what follows EOS with the first EOS where `pad` is 0.
"""

import jax
import jax.numpy as jnp
import numpy as np

from models import sampling

LOST = -1e9  # the reference's score for what must not be chosen; float32 sums with it are its own


def top(values, count: int):
    """The largest of each row [B,n] and their indices, in falling order; of equals the first."""
    return jax.lax.top_k(values, count)


def search(step, params, cache, tokens, mask, keys, s, reorder, limits=None) -> dict:
    """The fields of `generate.Generated` for the best num_return_sequences beams of each row.

    Arguments as in `generate.start`, with keys [B] if the temperature is above 0: candidates are then
    drawn without replacement instead of being the best. A row with limits [B] ends at its own, as if
    that were max_new_tokens.
    """
    rows, prompt = tokens.shape
    logits, cache = step(params, tokens, mask, cache)
    every = jnp.repeat(jnp.arange(rows), s.num_beams)
    state = _begin(tokens[every], mask[every], rows, logits.shape[-1], s)
    state["cache"] = reorder(cache, every)
    limits = s.max_new_tokens if limits is None else limits[:, None]
    state, _ = _extend(state, logits[every], keys, prompt, s, limits)

    def body(state):
        last = jax.lax.dynamic_slice_in_dim(
            state["run"]["tokens"], prompt + state["step"] - 1, 1, 2
        )
        last = last.reshape(-1, 1)
        logits, cache = step(params, last, jnp.ones_like(last), state["cache"])
        state, parents = _extend({**state, "cache": cache}, logits, keys, prompt, s, limits)
        return {**state, "cache": reorder(state["cache"], parents)}

    state = jax.lax.while_loop(lambda state: state["going"], body, state)
    return _results(state, prompt, s)


def _begin(tokens, mask, rows, vocab, s):
    """Beams of copies of the prompt [B,n,S]; all but the first are lost, so that they differ."""
    beams, new = s.num_beams, s.max_new_tokens
    fill = s.pad if s.pad > 0 else (s.eos[0] if s.eos else s.fill)
    tokens = jnp.pad(tokens, ((0, 0), (0, new)), constant_values=fill).astype(jnp.int32)
    first = jnp.where(jnp.arange(beams) == 0, 0.0, LOST)
    run = {
        "tokens": tokens.reshape(rows, beams, -1),
        "scores": jnp.broadcast_to(first, (rows, beams)).astype(jnp.float32),
        "log_probs": jnp.zeros((rows, beams, new), jnp.float32),
        "sample_log_probs": jnp.zeros((rows, beams, new), jnp.float32),
    }
    ended = {
        **run,
        "scores": jnp.full((rows, beams), LOST, jnp.float32),
        "finished": jnp.zeros((rows, beams), bool),
        "lengths": jnp.zeros((rows, beams), jnp.int32),
    }
    state = {
        "step": jnp.int32(0),
        "run": run,
        "ended": ended,
        "mask": jnp.pad(mask.astype(bool), ((0, 0), (0, new))),
        "hopeful": jnp.ones((rows, 1), bool),
        "going": jnp.bool_(True),
    }
    if s.scores:
        state["scores"] = jnp.zeros((new, rows * beams, vocab), jnp.float32)
    return state


def _extend(state, logits, keys, prompt, s, limits):
    """One token more for every running beam, from logits [B*n,V]; also the beams' parents [B*n]."""
    now, run = state["step"], state["run"]
    rows, beams = run["scores"].shape
    model = jax.nn.log_softmax(logits, -1)
    history = sampling.History(run["tokens"].reshape(rows * beams, -1), state["mask"], prompt, now)
    scores = sampling.process(model, history, s)
    if s.temperature:
        scores = sampling.warp(scores, s, len(s.eos) + 1 if s.eos else 2)

    total = scores.reshape(rows, beams, -1) + run["scores"][..., None]
    best, parent, token = _candidates(total.reshape(rows, -1), keys, now, scores.shape[-1], s)
    count = best.shape[1]
    at = (jnp.arange(rows)[:, None], parent, token)
    made = {
        "tokens": _gather(run["tokens"], parent).at[:, :, prompt + now].set(token),
        "scores": best,
        "log_probs": _gather(run["log_probs"], parent)
        .at[:, :, now]
        .set(model.reshape(rows, beams, -1)[at]),
        "sample_log_probs": _gather(run["sample_log_probs"], parent)
        .at[:, :, now]
        .set(scores.reshape(rows, beams, -1)[at]),
    }
    hit = jnp.isin(token, jnp.asarray(s.eos, jnp.int32)) if s.eos else jnp.zeros_like(token, bool)
    last = now + 1 >= limits
    hit = hit | last

    running = {**made, "scores": best + hit * LOST}
    running["scores"], chosen = top(running["scores"], beams)
    for name in ("tokens", "log_probs", "sample_log_probs"):
        running[name] = _gather(made[name], chosen)
    parents = jnp.take_along_axis(parent, chosen, 1) + beams * jnp.arange(rows)[:, None]

    may = hit & (jnp.arange(count) < beams)
    ended = _settle(state["ended"], made, may, state["hopeful"], now, s)
    longest = s.early_stopping == "never" and s.length_penalty > 0
    length = limits if longest else now + 1
    hopeful = _hopeful(state["hopeful"] & ~last, running["scores"], ended, length, s)
    full = ended["finished"].all() & (s.early_stopping is True)
    new = {
        **state,
        "step": now + 1,
        "run": running,
        "ended": ended,
        "mask": state["mask"].at[:, prompt + now].set(True),
        "hopeful": hopeful,
        "going": hopeful.any() & ~full & ~hit.all(),
    }
    if s.scores:
        new["scores"] = jax.lax.dynamic_update_slice(state["scores"], scores[None], (now, 0, 0))
    return new, parents.reshape(-1)


def _candidates(total, keys, now, vocab, s):
    """The best (or drawn) candidates of each row: summed log-probabilities, beams and tokens [B,C]."""
    count = max(2, len(s.eos) + 1) * s.num_beams
    if s.temperature:
        drawn = total + sampling.noise(keys, now, total.shape[-1])
        index = top(drawn, count)[1]
        best = jnp.take_along_axis(total, index, 1)
    else:
        best, index = top(total, count)
    return best, index // vocab, (index % vocab).astype(jnp.int32)


def _settle(ended, made, may, hopeful, now, s):
    """The finished beams after the candidates that `may` finish were merged in."""
    beams = s.num_beams
    scores = made["scores"] / _lengths(s)[now + 1]
    closed = ended["finished"].all(1, keepdims=True) & (s.early_stopping is True)
    scores = scores + closed * LOST
    scores = scores + ~hopeful * LOST
    scores = scores + ~may * LOST
    fresh = {
        **made,
        "scores": scores,
        "finished": may,
        "lengths": jnp.full_like(may, 0, jnp.int32) + now + 1,
    }
    merged = {name: jnp.concatenate([ended[name], fresh[name]], 1) for name in ended}
    best = top(merged["scores"], beams)[1]
    return {name: _gather(value, best) for name, value in merged.items()}


def _hopeful(before, running, ended, length, s):
    """Whether a running beam of this length may still beat a finished one, by row [B,1]."""
    best = running[:, :1] / _lengths(s)[length]
    worst = jnp.where(ended["finished"], ended["scores"].min(1, keepdims=True), LOST)
    return before & (best > worst).any(1, keepdims=True)


def _lengths(s):
    """What scores are divided by, for every length up to the longest, rounded once."""
    lengths = np.maximum(np.arange(s.max_new_tokens + 1, dtype=np.float64), 1)
    if s.length_rule == "gnmt":
        lengths = (5 + lengths) / 6
    return jnp.asarray(lengths**s.length_penalty, jnp.float32)


def _gather(values, index):
    """values [B,n,...] at index [B,m] -> [B,m,...]."""
    return jnp.take_along_axis(values, index.reshape(*index.shape, *[1] * (values.ndim - 2)), 1)


def _results(state, prompt, s):
    """The best beams of each row, flat: [B * num_return_sequences, ...]."""
    ended, keep = state["ended"], s.num_return_sequences
    flat = {name: value[:, :keep].reshape(-1, *value.shape[2:]) for name, value in ended.items()}
    last = jnp.take_along_axis(flat["tokens"], prompt + flat["lengths"][:, None] - 1, 1)
    stopped = jnp.isin(last[:, 0], jnp.asarray(s.eos, jnp.int32)) if s.eos else None
    return {
        "sequences": flat["tokens"],
        "lengths": flat["lengths"],
        "stopped": jnp.zeros_like(last[:, 0], bool) if stopped is None else stopped,
        "steps": state["step"],
        "log_probs": flat["log_probs"],
        "sample_log_probs": flat["sample_log_probs"],
        "sequences_scores": flat["scores"],
        "scores": state.get("scores"),
        "prompt": prompt,
    }
