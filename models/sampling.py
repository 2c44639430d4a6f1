"""What turns a model's logits into the distribution that a token is drawn from: pure functions.

Each takes and returns float32 logits [R,V]; a forbidden token gets -inf. `process` applies the
penalties and bans, `warp` the temperature and the filters, both in the order of the reference
library (transformers): repetition -> frequency, presence -> n-grams -> bad words -> min new tokens
-> forced tokens -> suppressed -> temperature -> top-k -> top-p -> min-p -> typical -> epsilon ->
eta -> renormalise. Settings are those of `models.settings.Settings`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from models.placement import alone, settle
from models.threefry import gumbel


class History(NamedTuple):
    """What was read and written so far, in buffers that are as long as the whole sequence.

    tokens [R,S]; mask [R,S], true for real tokens that exist already (not padding of the prompt);
    `prompt` the slots of the prompt, a Python int; `step` the new tokens so far, which may be
    traced. The next token goes to slot `prompt + step`.
    """

    tokens: jax.Array
    mask: jax.Array
    prompt: int
    step: jax.Array

    @property
    def index(self):
        return self.prompt + self.step

    def last(self, count: int):
        """The last `count` tokens [R,count] and whether all of them are real [R]."""
        start = self.index - count
        if count > self.tokens.shape[1]:
            return jnp.zeros((len(self.tokens), count), jnp.int32), jnp.zeros(
                len(self.tokens), bool
            )
        tokens = jax.lax.dynamic_slice_in_dim(self.tokens, start, count, 1)
        mask = jax.lax.dynamic_slice_in_dim(self.mask, start, count, 1)
        return tokens, mask.all(1) & (start >= 0)


def counts(tokens, mask, vocab: int):
    """How often each token occurs where the mask is true: [R,S] -> int32 [R,V]."""
    rows = jnp.arange(tokens.shape[0])[:, None]
    zeros = jnp.zeros((tokens.shape[0], vocab), jnp.int32)
    return zeros.at[rows, tokens].add(mask.astype(jnp.int32))


def among(vocab: int, tokens):
    """Boolean [V], true for the tokens named."""
    return jnp.zeros((vocab,), bool).at[jnp.asarray(tokens, jnp.int32)].set(True)


def repetition(logits, history: History, penalty: float):
    """Keskar et al. 2019 (CTRL), section 4.1, signed: a seen token's logit is divided by the penalty
    if positive and multiplied if negative; once per distinct token, those of the prompt included."""
    seen = counts(history.tokens, history.mask, logits.shape[-1]) > 0
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def frequency(logits, history: History, per_use: float, once: float):
    """OpenAI's penalties: count * `per_use` + (count > 0) * `once`, over generated tokens only."""
    made = history.mask & (jnp.arange(history.mask.shape[1]) >= history.prompt)
    count = counts(history.tokens, made, logits.shape[-1])
    return logits - count * per_use - (count > 0) * once


def no_repeat_ngram(logits, history: History, size: int):
    """Forbids every token that would complete an n-gram which the row already holds.

    Padding belongs to no n-gram, so that the result does not depend on it.
    """
    windows = history.tokens.shape[1] - size + 1
    if windows < 1:
        return logits
    prefix, whole = history.last(size - 1)
    match = jnp.broadcast_to((whole & (history.index >= size))[:, None], (len(logits), windows))
    for i in range(size):
        match = match & history.mask[:, i : i + windows]
        if i < size - 1:
            match = match & (history.tokens[:, i : i + windows] == prefix[:, i : i + 1])
    banned = counts(history.tokens[:, size - 1 :], match, logits.shape[-1]) > 0
    return jnp.where(banned, -jnp.inf, logits)


def bad_words(logits, history: History, words: tuple, eos: tuple):
    """Forbids sequences of tokens: the last one where the others stand just before.

    A word that is one EOS alone is let pass, as in the reference.
    """
    for word in words:
        if len(word) == 1 and word[0] in eos:
            continue
        before = jnp.asarray(word[:-1], jnp.int32)
        tokens, real = history.last(len(word) - 1)
        hit = real & (tokens == before).all(1)
        logits = jnp.where(hit[:, None] & among(logits.shape[-1], word[-1:]), -jnp.inf, logits)
    return logits


def forced(logits, tokens: tuple, when):
    """Where `when` is true, the given tokens get logit 0 and all others -inf."""
    only = jnp.where(among(logits.shape[-1], tokens), 0.0, -jnp.inf)
    return jnp.where(when, only, logits)


def process(logits, history: History, s):
    """Penalties and bans of the settings `s`, which hold for greedy, sampled and beam search."""
    if s.repetition_penalty != 1.0:
        logits = repetition(logits, history, s.repetition_penalty)
    if s.frequency_penalty or s.presence_penalty:
        logits = frequency(logits, history, s.frequency_penalty, s.presence_penalty)
    seen = history
    if s.pad_bans:
        prompt = jnp.arange(history.mask.shape[1]) < history.prompt
        seen = history._replace(mask=history.mask | prompt)
    if s.no_repeat_ngram:
        logits = no_repeat_ngram(logits, seen, s.no_repeat_ngram)
    if s.bad_words:
        logits = bad_words(logits, seen, s.bad_words, s.eos)
    if s.min_new_tokens and s.eos:
        early = history.step < s.min_new_tokens
        logits = jnp.where(early & among(logits.shape[-1], s.eos), -jnp.inf, logits)
    if s.forced_first >= 0:
        logits = forced(logits, (s.forced_first,), history.step == 0)
    if s.forced_last:
        logits = forced(logits, s.forced_last, history.step == s.max_new_tokens - 1)
    if s.suppress:
        logits = jnp.where(among(logits.shape[-1], s.suppress), -jnp.inf, logits)
    return logits


def running_sum(values):
    """Cumulative sums [R,V] rounded once: carried as pairs of float32, about double precision.

    The border of a nucleus often is a round number that sums of probabilities hit, where plain
    float32 sums would decide by their rounding errors.
    """

    def add(a, b):
        total = a[0] + b[0]
        moved = total - a[0]
        lost = (a[0] - (total - moved)) + (b[0] - moved)
        return total, a[1] + b[1] + lost

    high, low = jax.lax.associative_scan(add, (values, jnp.zeros_like(values)), axis=-1)
    return high + low


def top_k(logits, k: int, keep: int = 1):
    """Keeps the k largest (Fan et al. 2018) and everything tied with the k-th."""
    k = min(max(k, keep), logits.shape[-1])
    return jnp.where(logits < jax.lax.top_k(logits, k)[0][:, -1:], -jnp.inf, logits)


def top_p(logits, p: float, keep: int = 1):
    """Keeps the fewest largest whose probabilities reach p (Holtzman et al. 2020), the one that
    crosses p included. Of tokens tied at the border those with the larger ids stay."""
    vocab = logits.shape[-1]
    order = jnp.argsort(logits, axis=-1, stable=True)
    ascending = jnp.take_along_axis(logits, order, -1)
    below = running_sum(jax.nn.softmax(ascending, -1)) <= 1 - p
    first = (below & (jnp.arange(vocab) < vocab - keep)).sum(-1, keepdims=True)
    value, place = (jnp.take_along_axis(a, first, -1) for a in (ascending, order))
    kept = (logits > value) | ((logits == value) & (jnp.arange(vocab) >= place))
    return jnp.where(kept, logits, -jnp.inf)


def top_p_within(logits, p: float):
    """The rule of Ziegler et al. 2019 (lm-human-preferences): keeps what lies within p, counted from
    the largest, without the token that crosses it; at least one, and all that are tied."""
    descending = -jnp.sort(-logits, axis=-1)
    inside = (running_sum(jax.nn.softmax(descending, -1)) <= p).sum(-1, keepdims=True)
    value = jnp.take_along_axis(descending, jnp.maximum(inside - 1, 0), -1)
    return jnp.where(logits < value, -jnp.inf, logits)


def min_p(logits, p: float, keep: int = 1):
    """Keeps what is at least p times as probable as the most probable (Nguyen et al. 2024)."""
    probs = jax.nn.softmax(logits, -1)
    removed = probs < p * probs.max(-1, keepdims=True)
    return jnp.where(removed & _beyond(logits, keep), -jnp.inf, logits)


def typical(logits, mass: float, keep: int = 1):
    """Keeps the tokens whose surprise is nearest the entropy until they hold `mass` (Meister et al.
    2023)."""
    log_probs = jax.nn.log_softmax(logits, -1)
    terms = jnp.where(jnp.isfinite(log_probs), log_probs * jnp.exp(log_probs), 0.0)
    distance = jnp.abs(terms.sum(-1, keepdims=True) - log_probs)
    order = jnp.argsort(distance, axis=-1, stable=True)
    held = running_sum(jax.nn.softmax(jnp.take_along_axis(logits, order, -1), -1))
    last = jnp.clip((held < mass).sum(-1, keepdims=True), keep - 1, logits.shape[-1] - 1)
    border = jnp.take_along_axis(jnp.take_along_axis(distance, order, -1), last, -1)
    return jnp.where(distance > border, -jnp.inf, logits)


def epsilon(logits, cutoff: float, keep: int = 1):
    """Removes probabilities below the cutoff (Hewitt et al. 2022)."""
    removed = jax.nn.softmax(logits, -1) < cutoff
    return jnp.where(removed & _beyond(logits, keep), -jnp.inf, logits)


def eta(logits, cutoff: float, keep: int = 1):
    """Removes probabilities below min(cutoff, sqrt(cutoff) * exp(-entropy)) (Hewitt et al. 2022)."""
    log_probs = jax.nn.log_softmax(logits, -1)
    terms = jnp.where(jnp.isfinite(log_probs), log_probs * jnp.exp(log_probs), 0.0)
    bound = jnp.minimum(cutoff, cutoff**0.5 * jnp.exp(terms.sum(-1, keepdims=True)))
    return jnp.where((jnp.exp(log_probs) < bound) & _beyond(logits, keep), -jnp.inf, logits)


def _beyond(logits, keep: int):
    """True for what is smaller than the `keep`-th largest."""
    if keep == 1:
        return logits < logits.max(-1, keepdims=True)
    return logits < jax.lax.top_k(logits, min(keep, logits.shape[-1]))[0][:, -1:]


def warp(logits, s, keep: int = 1):
    """Temperature (> 0) and filters of the settings; at least `keep` tokens stay."""
    if s.temperature != 1.0:
        logits = logits / s.temperature
    if s.top_k:
        logits = top_k(logits, s.top_k, keep)
    if s.top_p < 1.0:
        within = s.nucleus == "within"
        logits = top_p_within(logits, s.top_p) if within else top_p(logits, s.top_p, keep)
    if s.min_p:
        logits = min_p(logits, s.min_p, keep)
    if s.typical_p < 1.0:
        logits = typical(logits, s.typical_p, keep)
    if s.epsilon:
        logits = epsilon(logits, s.epsilon, keep)
    if s.eta:
        logits = eta(logits, s.eta, keep)
    return logits


def noise(keys, step, vocab: int):
    """Gumbel noise [R,V] for Gumbel-max sampling: a function of the row's key and the step alone."""
    return jax.vmap(lambda key: gumbel(jax.random.fold_in(key, step), (vocab,)))(keys)


def largest(scores):
    """The index [R] of the largest of scores [R,V], the first of equal ones, of NaN the first.

    As `argmax`; on one CPU device by two reductions, which XLA has vectorised there and argmax not.
    """
    if not alone():
        return jnp.argmax(scores, -1)
    scores = settle(scores)  # both reductions read the same bits
    index = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    hit = (scores >= jnp.max(scores, -1, keepdims=True)) | jnp.isnan(scores)
    return jnp.min(jnp.where(hit, index, scores.shape[-1]), -1)
