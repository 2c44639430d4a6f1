"""`bench scaling`: our step's time and memory over batch, length, layers and vocabulary.

    python -m scripts.bench scaling
    python -m scripts.bench scaling --axes batch vocab --figure runs/scaling.png      (a part)

Every point is a process of its own, so that its peak memory is its own. The base is a small GPT-2 (4
layers x 256, 4 heads, vocabulary 4096, 4 x 256 tokens). The vocabulary's series is narrow (2 layers x
128) and has 8 x 256 tokens, so that the logits would outweigh everything if they were made in one
piece; the loss makes them in chunks. Temporaries are XLA's own account of the step; "less gradients"
leaves out one number a parameter, which a table's growth brings with it.
"""

import sys
import tempfile
from pathlib import Path

from scripts.bench import lanes, sizes, tables, train
from scripts.bench.lanes import Lane

HELP = "time and memory of a step over batch, length, layers and vocabulary, as curves"
BASE = dict(batch=4, length=256, layers=4, width=256, heads=4, vocab=4096)
NARROW = dict(batch=8, layers=2, width=128)
AXES = {
    "batch": (2, 4, 8, 16),
    "length": (128, 256, 512, 1024),
    "layers": (2, 4, 8),
    "vocab": (16384, 32768, 65536, 131072),
}


def arguments(parser):
    """Adds what this benchmark takes."""
    parser.description = __doc__
    parser.add_argument("--axes", nargs="+", choices=tuple(AXES), default=list(AXES))
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each point")
    parser.add_argument("--variant", default="", help="option=value,... of the model")
    parser.add_argument("--figure", default="scripts/figures/scaling.png")
    parser.add_argument("--out", default="", help="keep the result as JSON")


def run(args) -> int:
    """Measures, prints the tables, draws the curves and, with `--out`, keeps the result."""
    return tables.finish(args, measure(args), table, draw)


def measure(args) -> dict:
    """The whole benchmark as a dict; `table` and `draw` read it."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for axis in args.axes:
            found[axis] = [point(axis, value, args, Path(folder)) for value in AXES[axis]]
    return {
        "bench": "scaling",
        "command": tables.command("scaling", args),
        "device": tables.device(),
        "axes": found,
    }


def shape(axis: str, value: int) -> dict:
    """Everything that a point's step depends on."""
    return {**BASE, **(NARROW if axis == "vocab" else {}), axis: value}


def point(axis, value, args, folder) -> dict:
    """A point of an axis: see `alone`."""
    made = shape(axis, value)
    batch, length = made.pop("batch"), made.pop("length")
    o = sizes.options("gpt2", "124m", context=length, **made, **sizes.variant(args.variant))
    return {"value": value, **alone(f"{axis} {value}", o, batch, length, args.rounds, folder)}


def alone(name, o, batch, length, rounds, folder) -> dict:
    """One process with one model: its step's median seconds and its memory."""
    job = {
        "kind": "train", "batch": batch, "length": length, "clip": 1.0, **train.RECIPE,
        "model": o.plain(),
    }  # fmt: skip
    environment = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    lane = Lane(name, sys.executable, "scripts.bench.ours", job, folder, environment)
    with lane:
        rows = [lane.ask("steps", steps=1) for _ in range(rounds)]
    info = lane.info
    return {
        "cpu": lanes.median(rows, "cpu"),
        "wall": lanes.median(rows, "wall"),
        "peak": rows[-1]["peak"],
        "temporaries": info["temporaries"],
        "gradients": 4 * info["parameters"],
        "logits": 4 * batch * length * o.vocab,
        "compile_seconds": info["compile_seconds"],
    }


def table(result: dict) -> str:
    """A table an axis: seconds, seconds a unit more than the point before, and memory."""
    parts = []
    for axis, points in result["axes"].items():
        rows = []
        for before, p in zip([None, *points], points, strict=False):
            more = ""
            if before is not None:
                step = (p["cpu"] - before["cpu"]) / (p["value"] - before["value"])
                more = f"{step * 1e3:.4g}"
            rows.append([
                p["value"], f"{p['cpu']:.3f}", f"{p['wall']:.3f}", more,
                f"{p['temporaries'] / 1e6:.0f}",
                f"{(p['temporaries'] - p['gradients']) / 1e6:.0f}", f"{p['logits'] / 1e6:.0f}",
                f"{p['peak'] / 1e6:.0f}", f"{p['compile_seconds']:.1f}",
            ])  # fmt: skip
        head = [
            axis, "CPU-s", "wall s", "CPU-ms a unit more", "temporaries MB", "less gradients MB",
            "logits in one piece MB", "peak MB", "compile s",
        ]  # fmt: skip
        parts.append(tables.grid(head, rows))
    return "\n\n".join(parts)


def draw(result: dict, path) -> Path:
    """Seconds above, memory below, a column an axis. ValueError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("drawing needs matplotlib: pip install -e .[plots]") from error
    axes = result["axes"]
    figure = Figure(figsize=(3.4 * len(axes), 6), layout="constrained")
    FigureCanvasAgg(figure)
    cells = figure.subplots(2, len(axes), squeeze=False, sharex="col")
    for column, (axis, points) in enumerate(axes.items()):
        values = [p["value"] for p in points]
        above, below = cells[0][column], cells[1][column]
        series = lambda where, label, numbers, **style: where.plot(
            values, numbers, marker="o", markersize=3, label=label, **style
        )
        series(above, "CPU-seconds", [p["cpu"] for p in points])
        series(above, "wall seconds", [p["wall"] for p in points])
        least = [(p["temporaries"] - p["gradients"]) / 1e6 for p in points]
        series(below, "peak", [p["peak"] / 1e6 for p in points])
        series(below, "temporaries", [p["temporaries"] / 1e6 for p in points])
        series(below, "temporaries less gradients", least)
        if axis == "vocab":
            style = dict(linestyle="--", color="grey")
            series(below, "logits in one piece", [p["logits"] / 1e6 for p in points], **style)
        above.set_title(axis, fontsize=10)
        below.set_xlabel(axis)
        below.locator_params(axis="x", nbins=4)
        for cell in (above, below):
            cell.set_ylim(bottom=0)
            cell.set_xlim(left=0)
            cell.grid(alpha=0.3)
    cells[0][0].set_ylabel("seconds a step")
    cells[1][0].set_ylabel("MB")
    cells[0][0].legend(fontsize=8)
    cells[1][list(axes).index("vocab") if "vocab" in axes else 0].legend(fontsize=8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
