"""What goes into generation: padded prompts, checked, and a random key for every row."""

import jax
import jax.numpy as jnp
import numpy as np

from models.settings import Settings


def left_pad(prompts, pad: int = 0, multiple: int = 1, most: int = 1 << 31):
    """Lists of ids to (tokens, mask), int32 numpy arrays [B,T], padded on the left.

    T is rounded up to a multiple, but not beyond `most`, the model's context: that spares
    compilations and changes no result.
    """
    longest = max((len(ids) for ids in prompts), default=0)
    if not longest or not min(len(ids) for ids in prompts):
        raise ValueError("a prompt is empty; give at least one token")
    time = max(longest, min(-(-longest // multiple) * multiple, most))
    tokens = np.full((len(prompts), time), pad, np.int32)
    mask = np.zeros((len(prompts), time), np.int32)
    for row, ids in enumerate(prompts):
        tokens[row, time - len(ids) :] = np.asarray(ids)
        mask[row, time - len(ids) :] = 1
    return tokens, mask


def row_keys(rows: int, s: Settings, seeds=None, key=None):
    """One random key per row and copy [rows * num_return_sequences]; None if nothing is drawn.

    seeds: an integer per row, or one per row and copy. Copy j of a row folds j into the row's key, so
    that the first copy is what one copy would be. `key` instead folds in the number of the row.
    """
    if not s.temperature:
        return None
    copies = 1 if s.num_beams > 1 else s.num_return_sequences
    if seeds is None and key is None:
        raise ValueError("sampling (temperature above 0) needs seeds or a key")
    if seeds is None:
        base = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(rows))
    else:
        seeds = np.asarray(seeds)
        if seeds.shape not in ((rows,), (rows * copies,)) or seeds.dtype.kind not in "iu":
            raise ValueError(f"seeds are {seeds.dtype} {seeds.shape}; expected {rows} integers")
        base = jax.vmap(jax.random.key)((seeds.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32))
    each = copies if len(base) == rows else 1
    copy = jnp.tile(jnp.arange(each), len(base))
    return jax.vmap(jax.random.fold_in)(jnp.repeat(base, each), copy)


def check(o, tokens, mask, s: Settings):
    """Arrays (tokens, mask) [B,T], or a ValueError about what this model cannot read or write."""
    tokens = _array(tokens, "tokens")
    mask = np.ones(tokens.shape, np.int32) if mask is None else np.asarray(mask).astype(np.int32)
    if tokens.ndim != 2 or mask.shape != tokens.shape or not tokens.size:
        raise ValueError(f"tokens {tokens.shape} and mask {mask.shape} must be the same [B,T]")
    _whole(tokens)
    if not mask[:, -1].all() or (np.diff(mask, axis=1) < 0).any():
        raise ValueError("prompts must be padded on the left and hold at least one token each")
    real = np.where(mask, tokens, 0)
    if real.min() < 0 or real.max() >= o.vocab:
        wrong = int(real.max() if real.max() >= o.vocab else real.min())
        raise ValueError(f"token {wrong} is outside the model's vocabulary of {o.vocab}")
    named = [*s.eos, *s.suppress, *s.forced_last, *(t for word in s.bad_words for t in word)]
    named += [token for token in (s.pad, s.forced_first) if token != -1]
    wrong = [token for token in named if not 0 <= token < o.vocab]
    if wrong:
        raise ValueError(
            f"a setting names token {wrong[0]}, outside the model's vocabulary of {o.vocab}"
        )
    if s.top_log_probs > o.vocab:
        raise ValueError(
            f"top_log_probs={s.top_log_probs} exceeds the model's vocabulary of {o.vocab}"
        )
    longest = int(mask.sum(1).max())
    if longest + s.max_new_tokens > o.context and o.positions != "relative":
        raise ValueError(
            f"a prompt of {longest} tokens and {s.max_new_tokens} new ones exceed the model's "
            f"context of {o.context}; shorten the prompt or max_new_tokens"
        )
    inside = (tokens >= 0) & (tokens < o.vocab)
    return np.where(inside, tokens, s.fill).astype(np.int32), mask


def limits(given, rows: int, s: Settings):
    """The most new tokens of each row, int32 [B], at most max_new_tokens; ValueError for wrong ones."""
    given = np.asarray(given)
    if given.shape != (rows,) or given.dtype.kind not in "iu":
        raise ValueError(f"limits are {given.dtype} {given.shape}; expected {rows} integers")
    least = max(s.min_new_tokens, 1)
    if rows and given.min() < least:
        raise ValueError(f"a row's limit is {given.min()}; expected at least {least}")
    if s.forced_last:
        raise ValueError("forced_last comes at max_new_tokens; it does not go with limits")
    return np.minimum(given, s.max_new_tokens).astype(np.int32)


def _array(rows, name: str):
    """Rows as an array; ValueError where they differ in length."""
    try:
        return np.asarray(rows)
    except ValueError:
        raise ValueError(f"{name} has rows of different lengths; expected one length") from None


def _whole(tokens):
    if tokens.dtype.kind not in "iu":
        raise ValueError(f"tokens are {tokens.dtype}; expected whole numbers")


def given(o, tokens, mask, s: Settings, prompt=None) -> tuple:
    """(prompts, their mask, source or None), checked: what generation starts from.

    To an encoder-decoder `tokens` and `mask` are the source, and `prompt` [B,T] is how each target
    begins, by default with `o.start`.
    """
    if o.kind == "decoder" and o.head == "classify":
        raise ValueError("the model is a classifier (model.head='classify'), which writes no text")
    if o.kind != "encdec":
        if prompt is not None:
            raise ValueError("prompt is for encoder-decoders; a decoder's prompts are its tokens")
        return *check(o, tokens, mask, s), None
    read = source(o, tokens, mask)
    rows = len(read["mask"])
    prompt = np.full((rows, 1), o.start) if prompt is None else _array(prompt, "prompt")
    if prompt.ndim != 2:
        raise ValueError(f"prompt is {prompt.shape}; expected [B,T]")
    if len(prompt) != rows:
        raise ValueError(f"prompt has {len(prompt)} rows, the source {rows}")
    return *check(o, prompt, None, s), read


def source(o, tokens, mask=None) -> dict:
    """The source of an encoder-decoder as {"tokens", "mask"} [B,S], or a ValueError about it; of one
    that reads sound, {"frames"} [B,2S,M] beside a mask of ones."""
    if o.frames:
        return _sound(o, np.asarray(tokens), mask)
    tokens, vocab = _array(tokens, "tokens"), o.encoder_vocab or o.vocab
    mask = np.ones(tokens.shape, np.int32) if mask is None else np.asarray(mask).astype(np.int32)
    if tokens.ndim != 2 or mask.shape != tokens.shape or not tokens.size:
        raise ValueError(f"tokens {tokens.shape} and mask {mask.shape} must be the same [B,S]")
    _whole(tokens)
    if not mask.any(1).all():
        raise ValueError("a source is empty; give at least one token")
    real = np.where(mask, tokens, 0)  # what is masked may be -100, as in labels
    if real.min() < 0 or real.max() >= vocab:
        wrong = int(real.max() if real.max() >= vocab else real.min())
        raise ValueError(f"token {wrong} is outside the encoder's vocabulary of {vocab}")
    inside = (tokens >= 0) & (tokens < vocab)
    return {"tokens": np.where(inside, tokens, 0).astype(np.int32), "mask": mask}


def _sound(o, frames, mask) -> dict:
    if mask is not None:
        raise ValueError("sound has no mask; fill it with silence")
    if frames.ndim != 3 or frames.shape[1] % 2 or frames.shape[2] != o.frames:
        raise ValueError(f"frames are {frames.shape}; expected [B,2S,{o.frames}]")
    steps, most = frames.shape[1] // 2, o.encoder_context or o.context
    if not 1 <= steps <= most:
        raise ValueError(f"{frames.shape[1]} frames; the model reads 2 to {2 * most}")
    mask = np.ones((len(frames), steps), np.int32)
    return {"frames": frames.astype(np.float32), "mask": mask}
