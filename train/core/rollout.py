"""Answers that a policy writes to prompts, scored and compared: what PPO and the group methods train on.

Every log-probability is of the distribution that was sampled from: logits over the temperature, the
tokens that the tokenizer has, no filter (a truncated distribution would be renormalised, and bias every
ratio). Rows are prompts padded on the left to P slots and R new tokens: tokens, mask [N,P+R]; what
belongs to the answer is [N,R]. Dropout is off.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from eval import preference
from models import generate, prompts
from models.likelihood import of_tokens
from models.placement import precise
from models.settings import Settings, unused
from models.step import Again, Step
from train.core import advantages, bestof, kl, rewards, shard
from train.data import chat, packing

GROUPED = ("grpo", "dr_grpo", "rloo", "best")
METHODS = ("ppo", *GROUPED)
OLD = ("auto", "sampled", "scored")  # `Writer.noted`
ROUNDING = 2e-5  # nats by which a cached and a whole pass may differ in float32
COARSE = 0.05  # and where operands are rounded


def ends(tokenizer) -> tuple:
    """The tokens that end an answer: eos, and what ends a turn by the chat template.

    ValueError where a turn ends with a text of several tokens, which sampling would write on behind.
    """
    ids, texts = chat.turn_ends(tokenizer)
    if texts:
        raise ValueError(
            f"the chat template ends a turn with {texts[0]!r}, which is no token of this tokenizer; a "
            "sampled answer ends with a token: use a template that ends with eos, such as turns"
        )
    return tuple(dict.fromkeys((tokenizer.eos, *ids)))


class Writer:
    """Samples answers and says how probable they were: compiled once for a shape."""

    def __init__(self, model, tokenizer, how: dict, mesh=None):
        self.model, self.tokenizer, self.mesh = model, tokenizer, mesh
        self.temperature, self.new = how["temperature"], how["new"]
        self.old = how.get("old", "auto")
        fill = tokenizer.pad if tokenizer.pad >= 0 else tokenizer.eos
        self.settings = Settings(
            max_new_tokens=self.new,
            temperature=self.temperature,
            eos=ends(tokenizer),
            pad=fill,
            suppress=unused(tokenizer.vocab, model.o.vocab),
        )
        step, own = Step(model), self.settings
        self._turned = Again(model)

        @jax.jit
        def sample(variables, tokens, mask, keys):
            keys = None if keys is None else jax.random.wrap_key_data(keys)
            cache = step.cache(len(tokens), tokens.shape[1] + own.max_new_tokens, settings=own)
            return generate.decode(step, variables, cache, tokens, mask, keys, own)

        self._sample, self._of = sample, jax.jit(self.of)

    def of(self, params, tokens, mask):
        """log p of the answers' tokens [N,R], teacher-forced."""
        batch = {"tokens": tokens, "mask": mask}
        vocab = self.tokenizer.vocab
        params, how = {"params": params}, (self.temperature, vocab, self.new)
        return of_tokens(self.model, params, batch, *how)[0]

    def log_probs(self, params, tokens, mask) -> np.ndarray:
        """`of`, on the host."""
        return shard.whole(self._of(params, **self.place({"tokens": tokens, "mask": mask})))

    def noted(self) -> bool:
        """Whether what sampling noted ("sampled") stands for the policy's log-probabilities, as in
        Ziegler et al. 2019, or a pass over whole rows gives them ("scored").

        "auto" takes the former where both are the same but for float32's rounding: not where operands are
        rounded, or where that decides which experts a token gets.
        """
        return self.old == "sampled" or (self.old == "auto" and self.exact())

    def exact(self) -> bool:
        """Whether a cached and a whole pass differ by rounding in float32 alone."""
        o = self.model.o
        return o.dtype == o.activations == "float32" and precise() and not o.experts

    def __call__(self, params, tokens, mask, seeds) -> dict:
        """tokens, mask [N,P+R], answer (mask of the answer) [N,R], ended, lengths [N], sampled [N,R].

        tokens, mask: prompts [N,P]. A row is a function of its prompt and its seed alone. Every process
        gives all rows and gets all.
        """
        keys = prompts.row_keys(len(tokens), self.settings, seeds)
        given = {"tokens": tokens, "mask": mask}
        if keys is not None:
            given["keys"] = shard.whole(jax.random.key_data(keys))
        placed = {"keys": None, **self.place(given)}
        variables = self._turned({"params": params}, len(tokens), self.settings)
        out = self._sample(variables, **placed)
        names = ("sequences", "stopped", "lengths", "sample_log_probs")
        tokens, ended, lengths, sampled = shard.whole([getattr(out, name) for name in names])
        answer = np.arange(self.new) < lengths[:, None]
        return {
            "tokens": tokens,
            "mask": np.concatenate([np.asarray(mask), answer], 1).astype(np.int32),
            "answer": answer.astype(np.float32),
            "ended": ended,
            "lengths": lengths,
            "sampled": sampled,
        }

    def place(self, rows, names=()):
        """Rows (those of `names`, or all) laid out over the mesh where they divide by its data axes."""
        rows = {name: rows[name] for name in names or rows}
        return rows if self.mesh is None else shard.place_whole(rows, self.mesh)

    def texts(self, made) -> list:
        """The answers' texts, without the end of text."""
        rows = zip(made["tokens"][:, -self.new :], made["lengths"], made["ended"], strict=True)
        return [self.tokenizer.decode(row[: n - bool(end)]) for row, n, end in rows]


def settled(noted, scored):
    """Log-probabilities of a pass as near to those noted in sampling as rounding: taken as equal.

    A policy that has not moved so has a KL of exactly 0. Of what rounding leaves, whitening and Adam,
    which divide by deviations, would make whole steps wherever rewards are equal.
    """
    return np.where(np.abs(scored - noted) < ROUNDING, noted, scored)


def seeds(seed: int, update: int, rows: int, salt: int = 11) -> np.ndarray:
    """A seed for every row of an update."""
    return np.asarray(
        [packing.mix(seed, salt, update, n) & 0x7FFFFFFF for n in range(rows)], np.int64
    )


class Scorer:
    """Scores of answers [N]: a reward model's, read at the last real token, or a plain function's.

    reader: a `train.core.judges.Reader`, where the reward model has other tokens than the writer.
    """

    def __init__(self, writer, plain=None, model=None, reader=None):
        self.writer, self.plain, self.reader = writer, plain, reader
        if model is not None:
            last = writer.new if reader is None else 0  # every answer has a token
            self._score = jax.jit(
                lambda params, batch: preference.scores(model, {"params": params}, batch, last)
            )

    def __call__(self, made, asked, params=None) -> np.ndarray:
        """float32 [N], NaN for what a function cannot score. asked: the prompt of each row. Of several
        processes the first alone calls a plain function, and tells the others.

        A reader adds to `made` which answers were too long for it, `cut` [N].
        """
        if self.plain is None:
            batch = {name: made[name] for name in ("tokens", "mask")}
            if self.reader is not None:
                batch, made["cut"] = self.reader(asked, self.writer.texts(made))
            score = shard.whole(self._score(params, self.writer.place(batch)))
            return rewards.finite(score, "the reward model's score", "")
        found = np.zeros(len(asked), np.float32)
        if jax.process_index() == 0:  # a function may draw, or ask somebody
            rows = zip(asked, self.writer.texts(made), strict=True)
            found = rewards.plain([self.plain(p.words, text, p.target) for p, text in rows])
        return shard.said(found)


@functools.partial(jax.jit, static_argnames=("method", "size", "in_reward", "whitened"))
def judge(made, held, method, size, in_reward, whitened, gamma, lam, beta):
    """(advantages, returns) [N,R] from scores, log-probabilities and values.

    made: answer, old, reference [N,R], score [N] (after normalisation and the rule for missing ends,
    NaN where there is none); held: values [N,R] (method "ppo").
    """
    mask, penalty = made["answer"], kl.estimate(made["old"], made["reference"], "k1")
    coefficient = beta if in_reward else 0.0
    if method == "ppo":
        reward = rewards.place(penalty, made["score"], mask, coefficient)
        if whitened:
            reward = advantages.whiten(reward, mask, shift=False) * mask
        found, returns = advantages.gae(reward, held["values"] * mask, mask, gamma, lam)
        return advantages.whiten(found, mask) * mask, returns
    total = made["score"] - coefficient * jnp.sum(penalty * mask, -1)
    if method == "best":  # by the score alone: `bestof.bound` holds for that
        rows = jnp.where(jnp.isnan(made["score"]), -jnp.inf, made["score"]).reshape(-1, size)
        best = jnp.arange(size) == jnp.argmax(rows, -1)[:, None]
        found = (best & jnp.isfinite(rows)).astype(mask.dtype).reshape(-1)
    elif method == "rloo":
        found = advantages.leave_one_out(total, size)
    else:
        found = advantages.group(total, size, "none" if method == "dr_grpo" else "group")
    return found[:, None] * mask, jnp.zeros_like(mask)


def watched(made, raw, method: str, size: int) -> dict:
    """What to watch of a batch of answers: plain numbers.

    kl: nats an answer, summed over its tokens; distinct: the share of different answers, whatever
    they answer.
    """
    mask, score = made["answer"], made["score"]
    away = (made["old"] - made["reference"]) * mask
    scored = np.isfinite(raw).any()
    spread = np.nanstd(raw, dtype=np.float64) if scored else np.nan  # of equal ones: 0, not nearly
    out = {
        "reward": float(np.nanmean(raw)) if scored else float("nan"),
        "reward_std": float(spread),
        "score": float(np.nanmean(score)) if np.isfinite(score).any() else float("nan"),
        "kl": float(away.sum(-1).mean()),
        "kl_per_token": float(away.sum() / max(mask.sum(), 1)),
        "entropy": float(-(made["old"] * mask).sum() / max(mask.sum(), 1)),
        "length": float(made["lengths"].mean()),
        "ended": float(made["ended"].mean()),
        "distinct": len({row.tobytes() for row in made["tokens"][:, -mask.shape[1] :]}) / len(mask),
        "unscored": float(np.isnan(raw).mean()),
    }
    if method in GROUPED:
        rows, there = score.reshape(-1, size), np.isfinite(score).reshape(-1, size)
        low, high = (np.where(there, rows, edge) for edge in (np.inf, -np.inf))
        out["flat_groups"] = float((high.max(1) <= low.min(1)).mean())  # without a score, too
    if method == "best":
        out["kl_bound"] = bestof.bound(size)
    if made["old"] is not made["sampled"]:
        out["mismatch"] = float(np.abs((made["sampled"] - made["old"]) * mask).max())
    if "cut" in made:
        out["cut"] = float(np.mean(made["cut"]))
    return out


def failing(values: dict, limit: float) -> list:
    """What of an update's numbers says that training is failing, in words."""
    signs = [
        (
            "kl",
            lambda x: x > limit,
            "the policy is far from the reference (KL {:.1f} nats an answer)",
        ),
        (
            "kl",
            lambda x: x < -1,
            "KL is {:.2f}, below 0: log-probabilities of different distributions",
        ),
        ("ended", lambda x: x < 0.2, "only {:.0%} of the answers reach their end"),
        ("distinct", lambda x: x < 0.05, "only {:.0%} of the answers differ from each other"),
        (
            "flat_groups",
            lambda x: x > 0.95,
            "{:.0%} of the groups have equal rewards: nothing to learn",
        ),
        ("unscored", lambda x: x > 0.5, "{:.0%} of the answers have no score"),
        ("reward_std", lambda x: x == 0, "all answers have the same reward"),
        (
            "entropy",
            lambda x: x < 0.01,
            "the policy has become certain (entropy {:.3f} nats a token)",
        ),
        ("mismatch", lambda x: x > COARSE, "cached and full log-probabilities differ by {:.3f}"),
        (
            "cut",
            lambda x: x > 0.1,
            "{:.0%} of the answers are longer than the reward model reads, and were cut for it",
        ),
        ("explained", lambda x: x < -1, "the value net is worse than a constant ({:.1f})"),
    ]
    return [
        words.format(values[name])
        for name, bad, words in signs
        if name in values and bad(values[name])
    ]
