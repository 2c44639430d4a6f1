"""What the demo's policies do: gold and proxy, KL, win rates with intervals, best of n."""

import json
from pathlib import Path

import jax
import numpy as np

from eval import preference, wins
from scripts.instruct import task
from scripts.instruct.stages import NEW, ROOM
from train.core import bestof, checkpoint, rollout
from train.data import instructions, prompts

ROWS = 256


class Reader:
    """A saved policy that writes and scores: loaded once."""

    def __init__(self, folder):
        _, self.model, variables, self.tokenizer = checkpoint.load_run(folder)
        self.params = jax.device_put(variables["params"])
        self.dialogue = instructions.Dialogue(self.tokenizer)
        how = {"temperature": 1.0, "new": NEW}
        self.writer = rollout.Writer(self.model, self.tokenizer, how)

    def write(self, requests, seed: int) -> dict:
        """Answers to requests, in batches of ROWS: the arrays of `rollout.Writer`, with `texts`."""
        parts = []
        for start in range(0, len(requests), ROWS):
            part = requests[start : start + ROWS]
            ids = [self.dialogue.prompt(r) for r in part + part[:1] * (ROWS - len(part))]
            tokens, mask = prompts.padded(ids, ROOM, self.writer.settings.fill)
            made = self.writer(self.params, tokens, mask, rollout.seeds(seed, start, ROWS, 23))
            parts.append({name: x[: len(part)] for name, x in made.items()})
        whole = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        return {**whole, "texts": self.writer.texts(whole)}

    def log_probs(self, made) -> np.ndarray:
        """log p of each answer, summed over its tokens."""
        found = []
        for start in range(0, len(made["tokens"]), ROWS):
            here = slice(start, start + ROWS)
            both = self.writer.log_probs(self.params, made["tokens"][here], made["mask"][here])
            found.append((np.asarray(both) * made["answer"][here]).sum(-1))
        return np.concatenate(found)


def answers(folder, requests, seed: int) -> list:
    """(text, whether it reached its end) of an answer to each request."""
    made = Reader(folder).write(list(requests), seed)
    return list(zip(made["texts"], made["ended"].tolist(), strict=True))


def reward(folder) -> dict:
    """What the reward model's held-out rankings say."""
    found = json.loads((Path(folder) / "reward.json").read_text())
    return {"reward_accuracy": found["valid/accuracy"], "reward_nll": found["valid/nll"]}


def scores(folder, made) -> np.ndarray:
    """The reward model's scores of answers."""
    _, model, variables, _ = checkpoint.load_run(folder)
    score = jax.jit(lambda v, batch: preference.scores(model, v, batch))
    found = []
    for start in range(0, len(made["tokens"]), ROWS):
        batch = {name: made[name][start : start + ROWS] for name in ("tokens", "mask")}
        found.append(np.asarray(score(variables, batch)))
    return np.concatenate(found)


def golds(requests, made) -> np.ndarray:
    rows = zip(requests, made["texts"], made["ended"], strict=True)
    return np.asarray([task.gold(r, text, bool(end)) for r, text, end in rows])


def policy(folder, base, judge, requests, samples: int) -> dict:
    """A policy beside the model that it came from, on the same requests."""
    asked = [request for request in requests for _ in range(samples)]
    first, last = Reader(base), Reader(folder)
    before, after = first.write(asked, 1), last.write(asked, 2)
    gold = [golds(asked, made) for made in (before, after)]
    proxy = [scores(judge, made) for made in (before, after)]
    shift, scale = proxy[0].mean(), max(proxy[0].std(), 1e-6)
    lengths = [made["lengths"] for made in (before, after)]
    won = wins.outcomes(gold[1], gold[0])
    groups = np.repeat(np.arange(len(requests)), samples)
    sides = (won, lengths[1], lengths[0])
    out = {
        "gold_before": float(gold[0].mean()),
        "gold_after": float(gold[1].mean()),
        "proxy_after": float((proxy[1].mean() - shift) / scale),
        "kl": float((last.log_probs(after) - first.log_probs(after)).mean()),
        "length_before": float(lengths[0].mean()),
        "length_after": float(lengths[1].mean()),
        "ended": float(after["ended"].mean()),
        "distinct": len(set(after["texts"])) / len(asked),
        "win": float(won.mean()),
        "ties": float((won == 0.5).mean()),
        "win_interval": wins.interval(np.mean, groups, won),
        "win_equal_length": wins.controlled(*sides),
        "win_equal_length_interval": wins.interval(wins.controlled, groups, *sides),
    }
    out |= against(gold[0], proxy[0], len(requests))
    out["best_of"] = best_of(gold[0], (proxy[0] - shift) / scale, len(requests))
    out["examples"] = [
        [asked[n], before["texts"][n], after["texts"][n]] for n in range(0, 5 * samples, samples)
    ]
    return out


def against(gold, proxy, groups: int) -> dict:
    """How often the reward model orders two answers to a request as gold does, beside how often the
    labeller does (its noise makes a pair's order logistic in the gap of gold), and by quarter of that
    gap, from the smallest."""
    gaps, sizes = [], []
    for g, p in zip(gold.reshape(groups, -1), proxy.reshape(groups, -1), strict=True):
        better, worse = np.nonzero(g[:, None] > g[None])
        gaps += (p[better] - p[worse]).tolist()
        sizes += (g[better] - g[worse]).tolist()
    if not gaps:
        return {"reward_gold": float("nan"), "labeller_gold": float("nan")}
    sure = float(np.mean(1 / (1 + np.exp(-np.asarray(sizes)))))
    found = preference.summary(np.asarray(gaps), np.asarray(sizes), np.asarray(proxy), sure)
    out = {"reward_gold": found["accuracy"], "labeller_gold": found["ceiling"]}
    quarters = [x for name, x in found.items() if name.startswith("accuracy/clear")]
    return {**out, "reward_gold_by_gap": quarters}


def best_of(gold, proxy, groups: int) -> list:
    """[n, KL bound, gold, proxy] of the best of n answers to a request, n a power of 2."""
    gold, proxy, rows = gold.reshape(groups, -1), proxy.reshape(groups, -1), []
    n = 1
    while n <= gold.shape[1]:
        means = [
            np.mean([bestof.expected(p, x, n) for p, x in zip(proxy, of, strict=True)])
            for of in (gold, proxy)
        ]
        rows.append([n, bestof.bound(n), *map(float, means)])
        n *= 2
    return rows
