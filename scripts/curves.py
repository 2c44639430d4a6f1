"""One metric of several runs in one picture, over steps, minutes of training or operations.

    python -m scripts.curves --from runs/t5-shakespeare --from runs/bart-shakespeare --over flops --out curves.png

Each run is a line, named by its folder. `--metric` is a name in metrics.jsonl (default heldout/loss);
minutes are the trainer's `step_seconds` summed up (evaluations, saving and compiling left out), operations
its `step_flops` (see `train.core.meter`). The last value of each run is printed.
"""

import sys
from pathlib import Path

import numpy as np

from train.core import log
from train.core.errors import Parser, cleanly, nearest

OVER = {
    "steps": ("", 1.0, "step (updates)"),
    "minutes": ("step_seconds", 60.0, "minutes of training"),
    "flops": ("step_flops", 1e12, "training operations, TFLOP"),
}


def line(rows, metric: str, over: str) -> np.ndarray:
    """[n, 2] of (place, value) of the rows that have a finite value of the metric.

    ValueError names the metrics there are, or what the rows lack to be laid over minutes or operations.
    """
    name, unit, _ = OVER[over]
    known = [row[name] for row in rows if name in row] if name else [1.0]
    if not known:
        raise ValueError(f"no line says {name}, which --over {over} adds up")
    each, done, total, points = known[0], 0.0, 0.0, []
    for row in rows:
        if "loss" in row:
            each = row.get(name, each)
            total, done = total + each * (row["step"] - done), row["step"]
        if np.isfinite(row.get(metric, np.nan)):
            points.append((total / unit, row[metric]))
    if not points:
        names = sorted({name for row in rows for name in row} - {"step", "time"})
        raise ValueError(f"no line has {metric!r}; {nearest(metric, names)}")
    return np.asarray(points)


def draw(lines: dict, metric: str, over: str, out) -> Path:
    """Writes the picture of {name: [n, 2]}; ValueError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError('drawing needs matplotlib: pip install -e ".[plots]"') from None
    figure = Figure(figsize=(8, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, points in lines.items():
        (drawn,) = axes.plot(*points.T, marker="o", markersize=3.5, linewidth=1.8)
        axes.annotate(
            f"{name}  {points[-1, 1]:.3f}", points[-1], (7, 0), textcoords="offset points",
            color=drawn.get_color(), va="center", fontsize=9,
        )  # fmt: skip
    right = max(points[:, 0].max() for points in lines.values())
    axes.set_xlim(0, right * 1.32)
    axes.set_xlabel(OVER[over][2])
    part, _, name = metric.rpartition("/")
    axes.set_ylabel((name if name.startswith(part) else f"{part} {name}").replace("_", " "))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out)
    return Path(out)


def main(argv=None) -> int:
    parser = Parser(prog="python -m scripts.curves", description=__doc__)
    parser.add_argument("--from", dest="runs", action="append", required=True, help="a run")
    parser.add_argument("--metric", default="heldout/loss")
    parser.add_argument("--over", default="steps", choices=tuple(OVER))
    parser.add_argument("--out", default="curves.png", help="the picture")
    args = parser.parse_args(argv)
    lines = {}
    for run in args.runs:
        name = Path(run).resolve().name
        if name in lines:
            raise ValueError(f"two runs are called {name}; rename a folder")
        try:
            lines[name] = line(log.read(run), args.metric, args.over)
        except ValueError as error:
            raise ValueError(f"{run}: {error}") from None
        place, value = lines[name][-1]
        print(f"{name}: {args.metric} {value:.4f} at {place:,.4g} ({OVER[args.over][2]})")
    print(f"{draw(lines, args.metric, args.over, args.out)}: {len(lines)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())
