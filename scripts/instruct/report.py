"""The demo's report: means with their errors, every seed, gold and proxy against sqrt(KL), answers."""

import html
import json
from pathlib import Path

import numpy as np

from scripts import page

COLUMNS = (
    "reward_accuracy", "reward_gold", "labeller_gold", "gold_before", "gold_after", "proxy_after", "kl",
    "win", "win_equal_length", "length_before", "length_after", "ended", "distinct",
)  # fmt: skip
CELL = ("arm", "labels", "beta", "control", "seed")
INTERVALS = ("win", "win_equal_length")
WORDS = (
    "Gold is the judge's score, which neither reward model nor policy saw; proxy is the reward model's, in "
    "deviations of its scores of the fine-tuned model's answers. KL is from the fine-tuned model, in nats a "
    "sequence. A win is a higher gold than the fine-tuned model's answer to the same request (ties count "
    "half); at equal length: what a logistic regression on the difference in length says for none (Dubois et "
    "al. 2024). Intervals: 95 %, bootstrap over requests. Errors are standard errors over seeds."
)


def report(out, rows) -> Path:
    """Writes report.json and seeds.tsv, with every cell, and report.html; returns the page's path."""
    (out / "report.json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = ["\t".join((*CELL, *COLUMNS))]
    for row in rows:
        which = (str(row[name]) or "-" for name in CELL)
        lines.append("\t".join((*which, *(f"{row[name]:.4f}" for name in COLUMNS))))
    (out / "seeds.tsv").write_text("\n".join(lines) + "\n")
    groups = {}
    for row in rows:
        groups.setdefault((row["arm"], row["labels"], row["beta"], row["control"]), []).append(row)
    body = [figures(out, rows), "<h2>Cells</h2>", _means(groups), _seeds(rows), _examples(groups)]
    foot = "Made by <code>python -m scripts.instruct</code>."
    return page.write(out / "report.html", "Reviews on request", WORDS, body, foot, width=1280)


def title(arm, labels, beta, control) -> str:
    """A cell in words."""
    base = "fine-tuned on reviews that follow" if arm == "sft" else "fine-tuned on any reviews"
    said = f"{base}, {labels:,} rankings, beta {beta:g}"
    return f"{said}, control: {control}" if control else said


def _table(head, lines) -> str:
    return page.table([[str(name).replace("_", " ") for name in head], *lines], text=True)


def _means(groups) -> str:
    lines = []
    for key, group in groups.items():
        cells = []
        for column in COLUMNS:
            values = [row[column] for row in group]
            error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
            mean = f"{np.mean(values):.3f}"
            cells.append(mean if error is None else f"{mean} ± {error:.3f}")
        lines.append((title(*key), len(group), *cells))
    return _table(("cell", "seeds", *COLUMNS), lines)


def _seeds(rows) -> str:
    lines = [
        (
            title(row["arm"], row["labels"], row["beta"], row["control"]),
            row["seed"],
            *(f"{row[column]:.3f}" for column in COLUMNS),
            *("{:.2f} to {:.2f}".format(*row[f"{name}_interval"]) for name in INTERVALS),
        )
        for row in rows
    ]
    table = _table(("cell", "seed", *COLUMNS, *(f"{name}, 95 %" for name in INTERVALS)), lines)
    return f"<h2>Every seed</h2><details><summary>{len(lines)} runs</summary>{table}</details>"


def _examples(groups) -> str:
    """The same requests before and after, where most gold was gained and where least."""
    plain = [key for key in groups if not key[-1]] or list(groups)
    gain = lambda key: np.mean([row["gold_after"] - row["gold_before"] for row in groups[key]])
    chosen = dict.fromkeys([max(plain, key=gain), min(plain, key=gain)])
    parts = []
    for key in chosen:
        row = groups[key][0]
        table = _table(("request", "before", "after"), row["examples"])
        parts.append(f"<h3>{html.escape(title(*key))}, seed {row['seed']}</h3>{table}")
    return f"<h2>The same requests before and after</h2>{''.join(parts)}"


def figures(out, rows) -> str:
    """Gold and proxy against sqrt(KL), and what the controls gained, as embedded PNGs."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return "<p>No figures: they need the extra plots.</p>"
    parts = []
    for draw, words in ((_curves, "gold and proxy against KL"), (_controls, "controls")):
        figure = Figure(dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        if draw(figure, rows):
            path = out / f"{draw.__name__[1:]}.png"
            figure.savefig(path)
            parts.append(page.image(path, words))
    return "".join(parts)


def _curves(figure, rows) -> bool:
    """A column for each kind of model and labels: points are policies, lines best of n."""
    rows = [row for row in rows if not row["control"]]
    columns = list(dict.fromkeys((row["arm"], row["labels"]) for row in rows))
    betas = sorted({row["beta"] for row in rows})
    if not rows:
        return False
    figure.set_size_inches(1.5 + 3.3 * len(columns), 6.4)
    axes = figure.subplots(2, len(columns), squeeze=False, sharex=True, sharey="row")
    for place, column in enumerate(columns):
        here = [row for row in rows if (row["arm"], row["labels"]) == column]
        for axis, name, which in zip(
            axes[:, place], ("gold_after", "proxy_after"), (2, 3), strict=True
        ):
            curves = np.mean([row["best_of"] for row in here], axis=0)
            axis.plot(curves[:, 1] ** 0.5, curves[:, which], "k--", lw=1, label="best of n")
            start = np.mean([row["gold_before"] for row in here]) if which == 2 else 0.0
            axis.axhline(start, color="grey", lw=0.8, label="before")
            for number, beta in enumerate(betas):
                some = [row for row in here if row["beta"] == beta]
                x = np.sqrt([max(row["kl"], 0) for row in some])
                y = [row[name] for row in some]
                axis.plot(x, y, "o", color=f"C{number}", alpha=0.8, label=f"PPO, beta {beta:g}")
        head = "follows requests" if column[0] == "sft" else "any reviews"
        axes[0, place].set_title(f"{head}\n{column[1]:,} rankings", fontsize=10)
    axes[0, 0].set_ylabel("gold")
    axes[1, 0].set_ylabel("proxy, deviations")
    figure.supxlabel("sqrt(KL from the fine-tuned model, nats)", fontsize=10)
    axes[0, -1].legend(frameon=False, fontsize=8)
    return True


def _controls(figure, rows) -> bool:
    """The gain in gold of each control beside the reward model's, a point a seed."""
    controls = {row["control"] for row in rows} - {""}
    like = {(r["arm"], r["labels"], r["beta"]) for r in rows if r["control"]}
    rows = [row for row in rows if (row["arm"], row["labels"], row["beta"]) in like]
    if not controls:
        return False
    names = ["", *sorted(controls)]
    figure.set_size_inches(7, 3.6)
    axis = figure.subplots()
    for place, name in enumerate(names):
        some = [row["gold_after"] - row["gold_before"] for row in rows if row["control"] == name]
        if some:
            axis.bar(place, np.mean(some), color=f"C{place}", alpha=0.4, width=0.6)
            axis.plot(np.full(len(some), place), some, "o", color=f"C{place}")
    axis.axhline(0, color="black", lw=0.8)
    axis.set_xticks(range(len(names)), [name or "reward model" for name in names])
    axis.set_ylabel("gold gained")
    axis.set_title("What the policy learned from", fontsize=10)
    return True
