"""Loss curves of a run from its metrics.jsonl, as a PNG (matplotlib: the extra `plots`)."""

from pathlib import Path

import numpy as np

from train.core import log

NAME = "curves.png"


def curves(workdir, path=None) -> Path:
    """Draws training and held-out curves of the run in `workdir` and returns the PNG's path.

    One panel for the loss in nats per token with, beside the raw values, their running mean; one
    for held-out bits per character or byte where there are any; one for the learning rate.
    ValueError if matplotlib is missing or there is nothing to draw.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError('drawing needs matplotlib: pip install -e ".[plots]"') from None
    rows = log.read(workdir)
    loss = series(rows, "loss")
    if not len(loss):
        raise ValueError(f"{workdir} has no losses yet; nothing to draw")
    names = sorted({name for row in rows for name in row})
    heldout = [name for name in names if name.endswith("loss") and name != "loss"]
    bits = [
        n for n in names if n.endswith(("bits_per_character", "bits_per_char", "bits_per_byte"))
    ]
    rate = series(rows, "learning_rate")
    panels = [("loss, nats per token", heldout)] + ([("bits per character", bits)] if bits else [])
    if bits and all(name.endswith("byte") for name in bits):
        panels[1] = ("bits per byte", bits)
    count = len(panels) + bool(len(rate))
    ratio = [3] * len(panels) + [1] * bool(len(rate))
    figure = Figure(figsize=(8, 1.2 + 1.15 * sum(ratio)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(count, 1, sharex=True, squeeze=False, height_ratios=ratio)[:, 0]
    for axes, (label, extra) in zip(grid, panels, strict=False):
        axes.set_ylabel(label)
        if label.startswith("loss"):
            axes.plot(*loss.T, color="#9ecae1", linewidth=0.8, label="training, as logged")
            axes.plot(loss[:, 0], smooth(loss[:, 1]), color="#08519c", label="training, mean")
        _lines(axes, rows, extra)
        _limits(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    if len(rate):
        grid[-1].plot(*rate.T, color="#636363")
        grid[-1].set_ylabel("learning rate")
        grid[-1].set_ylim(bottom=0)
        grid[-1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    for axes in grid:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    grid[-1].set_xlabel("step (updates)")
    figure.suptitle(f"{Path(workdir).resolve().name}: training and held-out curves", fontsize=11)
    path = Path(path or Path(workdir) / NAME)
    figure.savefig(path)
    return path


def series(rows, name: str) -> np.ndarray:
    """[n, 2] of (step, value) for the rows that have a finite value of that name."""
    pairs = [(row["step"], row[name]) for row in rows if np.isfinite(row.get(name, np.nan))]
    return np.asarray(pairs, np.float64).reshape(-1, 2)


def smooth(values: np.ndarray) -> np.ndarray:
    """A centred running mean over a fiftieth of the values, shorter at the ends."""
    half = len(values) // 100
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)


def _lines(axes, rows, names):
    colours = ("#d94801", "#238b45", "#6a51a3", "#b10026", "#016c59", "#7a0177")
    for number, name in enumerate(names):
        points = series(rows, name)
        if len(points):
            last = f"{points[-1, 1]:.3f}"
            label = f"{name.replace('/', ' ').replace('_', ' ')} (last {last})"
            colour = colours[number % len(colours)]
            axes.plot(*points.T, color=colour, marker="o", markersize=3, label=label)


def _limits(axes):
    """Leaves out the first steep descent where it would flatten all the rest."""
    values = np.concatenate([line.get_ydata() for line in axes.lines] or [[0.0]])
    if len(values) > 20:
        low, high = values.min(), np.quantile(values, 0.98)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
