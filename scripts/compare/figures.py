"""The figures of `scripts.compare`: PNGs by matplotlib, one function each."""

from pathlib import Path

import numpy as np

# Convolutional nets are warm, transformers cool; the textbook's is grey.
LOOKS = {
    "resnet": ("ResNet", "#c2410c", "o", "-"),
    "efficientnet": ("EfficientNet", "#f59e0b", "s", "-"),
    "vit": ("ViT", "#1d4ed8", "o", "-"),
    "deit": ("DeiT, distilled", "#0891b2", "D", "-"),
    "swin": ("Swin", "#7c3aed", "^", "-"),
    "beit": ("BEiT, pre-trained", "#059669", "v", "-"),
    "textbook": ("attention only", "#6b7280", "X", "--"),
    "deit-plain": ("DeiT, no teacher", "#67c6d8", "D", ":"),
    "beit-scratch": ("BEiT, from scratch", "#74c7a5", "v", ":"),
}
FLOOR = 0.82


def sheet(rows=1, columns=1, size=(8.2, 5.2), **more):
    """(figure, axes [rows, columns]); ValueError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError('drawing needs matplotlib: pip install -e ".[plots]"') from None
    figure = Figure(figsize=size, dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **more)
    for axes in grid.ravel():
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.22, linewidth=0.7)
        axes.set_axisbelow(True)
    return figure, grid


def spread(values) -> tuple[float, float]:
    """(mean, sample standard deviation or 0)."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0


def percent(axes, axis="y"):
    """Ticks as per cent, none of which is rounded."""
    from matplotlib.ticker import MaxNLocator

    line = getattr(axes, f"{axis}axis")
    line.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    line.set_major_formatter(lambda value, _: f"{round(100 * value, 6):g}%")


def labels(scores: dict, path: Path) -> Path:
    """Accuracy against labels: scores {net: {share: accuracies}}."""
    figure, grid = sheet(size=(8.6, 5.4))
    axes = grid[0, 0]
    nets = [net for net in LOOKS if net in scores]
    last = {net: spread(scores[net][max(scores[net])])[0] for net in nets}
    for number, net in enumerate(sorted(nets, key=lambda n: (-max(scores[n]), -last[n]))):
        name, colour, marker, line = LOOKS[net]
        shares = sorted(scores[net])
        found = np.array([spread(scores[net][share]) for share in shares])
        x = 60_000 * np.array(shares) * 1.035 ** (number - len(nets) / 2)
        axes.errorbar(
            x, found[:, 0], found[:, 1], color=colour, marker=marker, linestyle=line, capsize=3,
            linewidth=2, markersize=6, label=f"{name}  {found[-1, 0]:.1%}{_of(shares[-1])}",
        )  # fmt: skip
    axes.axhline(FLOOR, color="#9ca3af", linewidth=1, linestyle=(0, (4, 3)))
    axes.text(600, FLOOR, "linear model, 12,000 labels", color="#6b7280", fontsize=8, va="bottom")
    axes.set_xscale("log")
    axes.set_xticks([600, 6_000, 60_000], ["600\n1 %", "6,000\n10 %", "60,000\n100 %"])
    axes.minorticks_off()
    axes.set(xlabel="labels", ylabel="accuracy on the 10,000 test pictures")
    percent(axes)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    figure.suptitle("Who learns from few labels", fontsize=13, fontweight="bold")
    figure.savefig(path)
    return path


def _of(share: float) -> str:
    return "" if share == 1 else f" of {share:.0%}"


def compute(curves: dict, path: Path) -> Path:
    """Accuracy against training operations with all labels: curves {net: [n, 3] of (FLOPs, mean, sd)}."""
    figure, grid = sheet(size=(8.6, 5.0))
    axes = grid[0, 0]
    for net in (n for n in LOOKS if n in curves):
        name, colour, marker, line = LOOKS[net]
        x, mean, sd = np.asarray(curves[net]).T
        axes.plot(x, mean, color=colour, marker=marker, linestyle=line, linewidth=2, label=name)
        axes.fill_between(x, mean - sd, mean + sd, color=colour, alpha=0.13, linewidth=0)
    low = min(np.asarray(c)[:, 1].min() for c in curves.values())
    axes.set_ylim(bottom=max(low - 0.02, 0))
    axes.set_xscale("log")
    axes.set(xlabel="floating point operations of training", ylabel="accuracy on the test pictures")
    percent(axes)
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    axes.set_xlim(left=min(np.asarray(c)[0, 0] for c in curves.values()) / 2.2)
    figure.suptitle("What an operation buys", fontsize=13, fontweight="bold")
    figure.savefig(path)
    return path


def costs(rows: dict, path: Path) -> Path:
    """Bars: rows {net: (parameters, MFLOP an image, images a second, MiB of a step)}."""
    titles = (
        "parameters", "million operations an image, forward", "images a second, training",
        "MiB that a step of 128 needs",
    )  # fmt: skip
    figure, grid = sheet(2, 2, size=(9.4, 6.0))
    nets = [net for net in LOOKS if net in rows][::-1]
    for number, (axes, title) in enumerate(zip(grid.ravel(), titles, strict=True)):
        values = [rows[net][number] for net in nets]
        bars = axes.barh(
            [LOOKS[net][0] for net in nets],
            values,
            color=[LOOKS[net][1] for net in nets],
            height=0.7,
        )
        shown = [f"{v:,.0f}" if v >= 100 else f"{v:,.1f}" for v in values]
        axes.bar_label(bars, shown, padding=3, fontsize=8)
        axes.set_xlim(right=max(values) * 1.2)
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        axes.tick_params(axis="y", length=0)
    figure.suptitle("What they cost", fontsize=13, fontweight="bold")
    figure.savefig(path)
    return path


def gains(pairs: dict, path: Path) -> Path:
    """Differences by seed: pairs {title: {share: differences in accuracy}}."""
    figure, grid = sheet(1, len(pairs), size=(3.4 * len(pairs), 3.7), sharey=True)
    for axes, (title, found) in zip(grid[0], pairs.items(), strict=True):
        shares = sorted(found)
        for place, share in enumerate(shares):
            mean, sd = spread(100 * np.asarray(found[share]))
            colour = "#059669" if mean > 0 else "#b91c1c"
            axes.bar(place, mean, width=0.55, color=colour, alpha=0.3)
            values = 100 * np.asarray(found[share])
            beside = place + np.linspace(-0.1, 0.1, len(values))
            axes.plot(beside, values, "o", color=colour, markersize=5)
            end = max(*values, 0) if mean > 0 else min(*values, 0)
            far = dict(xytext=(0, 7 if mean > 0 else -15), textcoords="offset points")
            axes.annotate(f"{mean:+.1f} ± {sd:.1f}", (place, end), ha="center", fontsize=8, **far)
        axes.axhline(0, color="#374151", linewidth=0.8)
        axes.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
        axes.set_xlim(-0.6, max(len(shares) - 0.4, 0.6))
        axes.margins(y=0.25)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("share of the labels")
    grid[0, 0].set_ylabel("points of accuracy")
    figure.suptitle("What one ingredient is worth (dots: seeds)", fontsize=13, fontweight="bold")
    figure.savefig(path)
    return path


def norms(scores: dict, path: Path) -> Path:
    """scores {net: {norm: {batch: (test accuracies, training accuracies)}}}."""
    figure, grid = sheet(2, len(scores), size=(4.6 * len(scores), 6.6), sharex=True, sharey="row")
    colours = {"batch": "#c2410c", "layer": "#1d4ed8"}
    for column, (net, found) in enumerate(scores.items()):
        top, low = grid[:, column]
        for norm, by_batch in found.items():
            batches = sorted(by_batch)
            test, train = (
                np.array([spread(by_batch[b][side]) for b in batches]) for side in (0, 1)
            )
            gap = np.array([spread(np.subtract(by_batch[b][1], by_batch[b][0])) for b in batches])
            look = dict(color=colours[norm], linewidth=2, capsize=3)
            top.errorbar(batches, *test.T, marker="o", label=f"{norm} norm, test", **look)
            top.plot(batches, train[:, 0], color=colours[norm], linestyle=":", marker=".",
                     label=f"{norm} norm, training pictures")  # fmt: skip
            low.errorbar(batches, *(100 * gap.T), marker="o", **look)
        top.set_title(LOOKS[net][0], fontsize=11)
        percent(top)
        low.axhline(0, color="#9ca3af", linewidth=0.8)
        low.set_xscale("log", base=2)
        low.set_xticks(batches, [str(b) for b in batches])
        low.set_xlabel("batch")
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("training - test, points")
    grid[0, 0].legend(frameon=False, fontsize=8)
    figure.suptitle("Batch against layer normalisation", fontsize=13, fontweight="bold")
    figure.savefig(path)
    return path
