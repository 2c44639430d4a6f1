"""What the demo's policies do: gold and proxy, KL, win rates with intervals, best of n, and the report."""

import base64
import html
import io
import json
from pathlib import Path

import jax
import numpy as np

from eval import preference
from scripts import instruct_task as task
from scripts.instruct_stages import NEW, ROOM
from train.core import bestof, checkpoint, rollout
from train.data import instructions, prompts

ROWS, TRIES = 256, 2000


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
    wins = np.where(gold[1] == gold[0], 0.5, gold[1] > gold[0])
    close = np.abs(lengths[0] - lengths[1]) <= 2
    out = {
        "gold_before": float(gold[0].mean()),
        "gold_after": float(gold[1].mean()),
        "proxy_after": float((proxy[1].mean() - shift) / scale),
        "kl": float((last.log_probs(after) - first.log_probs(after)).mean()),
        "length_before": float(lengths[0].mean()),
        "length_after": float(lengths[1].mean()),
        "ended": float(after["ended"].mean()),
        "distinct": len(set(after["texts"])) / len(asked),
        "win": float(wins.mean()),
        "ties": float((gold[1] == gold[0]).mean()),
        "win_interval": interval(wins.reshape(len(requests), -1).mean(1)),
        "win_equal_length": float(wins[close].mean()) if close.any() else float("nan"),
        "equal_length": float(close.mean()),
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


def interval(by_prompt, level: float = 0.95) -> list:
    """A bootstrap interval of a mean over prompts."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(by_prompt), size=(TRIES, len(by_prompt)))
    tail = (1 - level) / 2
    return np.quantile(np.asarray(by_prompt)[draws].mean(1), [tail, 1 - tail]).tolist()


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


COLUMNS = (
    "reward_accuracy", "reward_gold", "labeller_gold", "gold_before", "gold_after", "proxy_after", "kl",
    "win", "win_equal_length", "length_before", "length_after", "ended", "distinct",
)  # fmt: skip


def report(out, rows) -> Path:
    """report.json and report.html of every cell: tables, the curve of gold against sqrt(KL), examples."""
    (out / "report.json").write_text(json.dumps(rows, indent=1) + "\n")
    head = "".join(
        f"<th>{html.escape(c.replace('_', ' '))}</th>" for c in ("cell", *COLUMNS, "95 %")
    )
    lines, groups = [], {}
    for row in rows:
        name = f"{row['arm']} {row['labels']} beta {row['beta']} {row['control']}"
        groups.setdefault(name, []).append(row)
        low, high = row["win_interval"]
        body = "".join(f"<td>{row.get(c, np.nan):.3f}</td>" for c in COLUMNS)
        lines.append(
            f"<tr><td>{name} seed {row['seed']}</td>{body}<td>{low:.2f}-{high:.2f}</td></tr>"
        )
    for name, group in groups.items():
        if len(group) > 1:
            stats = [(np.mean(x), np.std(x, ddof=1) / len(x) ** 0.5)
                     for x in ([row.get(c, np.nan) for row in group] for c in COLUMNS)]  # fmt: skip
            body = "".join(f"<td>{m:.3f} &plusmn; {e:.3f}</td>" for m, e in stats)
            lines.append(f"<tr><th>{name}, mean &plusmn; standard error</th>{body}<td></td></tr>")
    shown = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in example) + "</tr>"
        for example in rows[0]["examples"]
    )
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Reviews on request</title>"
        "<style>body{font:15px/1.5 system-ui;margin:2rem auto;max-width:75rem}td,th{padding:.2rem .5rem;"
        "text-align:left;border-bottom:1px solid #8884}table{border-collapse:collapse}</style>"
        f"<h1>Reviews on request</h1><table><tr>{head}</tr>{''.join(lines)}</table>{_figure(rows)}"
        f"<h2>The same requests before and after</h2><table><tr><th>request</th><th>before</th>"
        f"<th>after</th></tr>{shown}</table></html>\n"
    )
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _figure(rows) -> str:
    """Gold (filled) and proxy (open) against sqrt(KL), PPO as points and best of n as lines."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return "<p>No figure: it needs the extra plots.</p>"
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, row in enumerate(rows):
        colour = f"C{number % 10}"
        at = max(row["kl"], 0) ** 0.5
        label = f"{row['arm']} {row['labels']} {row['beta']} {row['control']} s{row['seed']}"
        axes.plot(at, row["gold_after"], "o", color=colour, label=label if number < 12 else None)
        axes.plot(at, row["proxy_after"], "o", color=colour, fillstyle="none")
        axes.plot([x[1] ** 0.5 for x in row["best_of"]], [x[2] for x in row["best_of"]], "-",
                  color=colour, alpha=0.5)  # fmt: skip
    axes.set(
        xlabel="sqrt(KL from the fine-tuned model, nats)", ylabel="gold (filled), proxy (open)"
    )
    axes.legend(frameon=False, fontsize=7)
    held = io.BytesIO()
    figure.savefig(held, format="png")
    return f'<img alt="gold against KL" src="data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}">'
