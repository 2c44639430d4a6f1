"""What a benchmark's runs say: JSON lines, a markdown table and curves.

A run is a dict: `side` ("formulary", "torch stock", ...), `lr`, `seed`, `steps`, `tokens`, `seconds`
(training, evaluations not counted), `parameters`, `bits_per_character` (whole held-out works) and
`curve`, pairs of (seconds, bits per character). Nothing here needs jax or torch.
"""

import json
import statistics
from pathlib import Path

OURS = "formulary"


def load(path) -> list:
    """The runs in a JSON-lines file, [] where there is none. ValueError names a damaged line."""
    path = Path(path)
    rows = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not a line of JSON; remove it") from error
    return rows


def append(path, row: dict):
    """Adds one run to the JSON-lines file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def of(rows: list, side: str) -> list:
    return [row for row in rows if row["side"] == side]


def sides(rows: list) -> list:
    """The sides in the order of their first runs, ours first."""
    names = list(dict.fromkeys(row["side"] for row in rows))
    return sorted(names, key=lambda name: name != OURS)


def best_lr(rows: list, side: str) -> float:
    """The learning rate with the lowest bits per character of one side, on the tuning seed.

    Every rate is compared on the seed that the side's first run has, so that a rate that was run
    on more seeds has no more chances. ValueError if the side has no runs.
    """
    found = of(rows, side)
    if not found:
        raise ValueError(f"no runs of {side!r}")
    if len({row["lr"] for row in found}) == 1:
        return found[0]["lr"]
    tuning = [row for row in found if row["seed"] == found[0]["seed"]]
    return min(tuning, key=lambda row: row["bits_per_character"])["lr"]


def chosen(rows: list, side: str) -> list:
    """The runs of a side at its best learning rate, by seed."""
    lr = best_lr(rows, side)
    return sorted((r for r in of(rows, side) if r["lr"] == lr), key=lambda row: row["seed"])


def summary(rows: list, side: str) -> dict:
    """Mean, minimum and maximum bits per character over the seeds, and the means of the rest."""
    runs = chosen(rows, side)
    bits = [row["bits_per_character"] for row in runs]
    mean = {
        name: statistics.fmean(row[name] for row in runs)
        for name in ("seconds", "steps", "tokens", "parameters")
    }
    return {
        "side": side,
        "lr": runs[0]["lr"],
        "seeds": len(runs),
        "bits": statistics.fmean(bits),
        "low": min(bits),
        "high": max(bits),
        "tokens_per_second": mean["tokens"] / mean["seconds"],
        **mean,
    }


def table(rows: list) -> str:
    """One line a side at its best learning rate; then every learning rate on the tuning seed."""
    lines = [
        "| | parameters | learning rate | seeds | training, min | steps | tokens/s "
        "| bits per character: mean (min to max) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side in sides(rows):
        s = summary(rows, side)
        lines.append(
            f"| {side} | {s['parameters']:,.0f} | {s['lr']:g} | {s['seeds']} "
            f"| {s['seconds'] / 60:.2f} | {s['steps']:.0f} | {s['tokens_per_second']:,.0f} "
            f"| {s['bits']:.4f} ({s['low']:.4f} to {s['high']:.4f}) |"
        )
    rates = sorted({row["lr"] for row in rows})
    seed = rows[0]["seed"]
    lines += [
        "",
        f"| bits per character, seed {seed} | " + " | ".join(f"lr {lr:g}" for lr in rates) + " |",
        "|---" * (len(rates) + 1) + "|",
    ]
    for side in sides(rows):
        found = {r["lr"]: r["bits_per_character"] for r in of(rows, side) if r["seed"] == seed}
        cells = [f"{found[lr]:.4f}" if lr in found else "" for lr in rates]
        lines.append(f"| {side} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdicts(rows: list, minutes: float, margin=0.02, slack=0.05) -> list:
    """Sentences: who is lower, and every condition of a fair comparison that does not hold."""
    ours = summary(rows, OURS) if of(rows, OURS) else None
    lines = []
    for side in sides(rows):
        s = summary(rows, side)
        if abs(s["seconds"] / 60 - minutes) > slack * minutes:
            lines.append(
                f"NOT EQUAL TIME: {side} trained {s['seconds'] / 60:.2f} minutes, not {minutes:g}."
            )
        if ours is None or side == OURS:
            continue
        if abs(s["parameters"] / ours["parameters"] - 1) > margin:
            lines.append(
                f"NOT EQUAL SIZE: {side} has {s['parameters']:,.0f} parameters, "
                f"Formulary {ours['parameters']:,.0f}."
            )
        pairs = {r["seed"]: r["bits_per_character"] for r in chosen(rows, side)}
        both = [r for r in chosen(rows, OURS) if r["seed"] in pairs]
        won = sum(r["bits_per_character"] < pairs[r["seed"]] for r in both)
        gap = s["bits"] - ours["bits"]
        lines.append(
            f"Formulary is {abs(gap):.4f} bits per character {'lower' if gap > 0 else 'higher'} "
            f"than {side}, lower in {won} of {len(both)} seeds."
        )
    return lines


def plot(rows: list, path, title="", what="bits per character, held-out works", said=None) -> Path:
    """Draws the curves against wall minutes of training: a line a side, its seeds behind.

    `what` is on the curves; `said(runs)` is put behind a side's name in the legend, by default its
    rate and bits per character. ValueError says how to install matplotlib where it is missing.
    """
    said = said or (
        lambda runs: (
            f", lr {runs[0]['lr']:g}: {statistics.fmean(r['bits_per_character'] for r in runs):.3f}"
        )
    )
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("drawing needs matplotlib: pip install -e .[plots]") from error
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, side in enumerate(sides(rows)):
        runs = chosen(rows, side)
        color = f"C{number}"
        for run in runs:
            axes.plot(*minutes_and_bits(run["curve"]), color=color, alpha=0.25, linewidth=1)
        points = min(len(run["curve"]) for run in runs)
        mean = [
            [statistics.fmean(run["curve"][i][axis] for run in runs) for axis in (0, 1)]
            for i in range(points)
        ]
        axes.plot(
            *minutes_and_bits(mean),
            color=color,
            marker="o",
            markersize=3,
            label=side + said(runs),
        )
    axes.set(xlabel="wall minutes of training", ylabel=what)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def minutes_and_bits(curve) -> tuple:
    return [seconds / 60 for seconds, _ in curve], [bits for _, bits in curve]


def write(rows: list, folder, minutes: float, notes=(), title="") -> str:
    """Writes report.md and curves.png into the folder; returns the report's text."""
    folder = Path(folder)
    parts = [f"# {title}"] if title else []
    parts += [table(rows), "\n".join(f"- {line}" for line in verdicts(rows, minutes))]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    text = "\n\n".join(parts) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(text)
    plot(rows, folder / "curves.png", title)
    return text
