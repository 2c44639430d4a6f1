"""`bench lengths`: a step of Longformer's windows and of dense attention over the length of a row.

    python -m scripts.bench lengths
    python -m scripts.bench lengths --lengths 512 1024 --rounds 1 --figure runs/lengths.png   (a part)

One row of random tokens in masked-token training, as `python -m train` does it. Both models have 2
layers x 256, 4 heads and a vocabulary of 4,096; BERT's attention is dense, Longformer's windows are of
`--window` tokens (Beltagy et al. 2020, 512) without global ones. Every point is a process of its own,
so that its peak memory is its own; the first step, which compiles, is not counted.
"""

import tempfile
from pathlib import Path

from scripts.bench import scaling, sizes, tables

HELP = "Longformer's windows against dense BERT at 512 to 8,192 tokens: time and peak memory"
SHAPE = dict(layers=2, width=256, heads=4, vocab=4096)
LENGTHS = (512, 1024, 2048, 4096, 8192)
FAMILIES = {"bert": "dense (BERT)", "longformer": "windows (Longformer)"}


def arguments(parser):
    """Adds what this benchmark takes."""
    parser.description = __doc__
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--window", type=int, default=512, help="tokens that a token sees")
    parser.add_argument("--rounds", type=int, default=3, help="timed steps of each point")
    parser.add_argument("--figure", default="scripts/figures/lengths.png")
    parser.add_argument("--out", default="", help="keep the result as JSON")


def run(args) -> int:
    """Measures, prints the table, draws the curves and, with `--out`, keeps the result."""
    return tables.finish(args, measure(args), table, draw)


def options(family: str, length: int, window: int):
    """The options of one of the two models; they differ by the attention and by BERT's segments."""
    more = {"windows": (window,)} if family == "longformer" else {}
    return sizes.options(family, "base", context=length, **SHAPE, **more)


def measure(args) -> dict:
    """The whole benchmark as a dict; `table` and `draw` read it."""
    found = {family: [] for family in FAMILIES}
    with tempfile.TemporaryDirectory() as folder:
        for length in args.lengths:
            for family, points in found.items():
                o = options(family, length, args.window)
                name = f"{family} {length}"
                made = scaling.alone(name, o, 1, length, args.rounds, Path(folder))
                points.append({"value": length, **made})
    return {
        "bench": "lengths",
        "command": tables.command("lengths", args),
        "device": tables.device(),
        "window": args.window,
        "families": found,
    }


def table(result: dict) -> str:
    """A row a length: seconds, peak and temporary memory of both, and dense over windows."""
    rows = []
    for dense, near in zip(*(result["families"][name] for name in FAMILIES), strict=True):
        rows.append([
            f"{dense['value']:,}", f"{dense['cpu']:.3f}", f"{near['cpu']:.3f}",
            f"{dense['cpu'] / near['cpu']:.2f}", f"{dense['wall']:.3f}", f"{near['wall']:.3f}",
            f"{dense['peak'] / 1e6:.0f}", f"{near['peak'] / 1e6:.0f}",
            f"{dense['temporaries'] / 1e6:.0f}", f"{near['temporaries'] / 1e6:.0f}",
        ])  # fmt: skip
    head = [
        "tokens of a row", "dense, CPU-s", f"windows of {result['window']}, CPU-s",
        "dense / windows", "dense, wall s", "windows, wall s", "dense, peak MB",
        "windows, peak MB", "dense, temporaries MB", "windows, temporaries MB",
    ]  # fmt: skip
    return tables.grid(head, rows)


def draw(result: dict, path) -> Path:
    """Seconds and memory over the length. ValueError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("drawing needs matplotlib: pip install -e .[plots]") from error
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for family, points in result["families"].items():
        values = [p["value"] for p in points]
        style = dict(marker="o", markersize=3, label=FAMILIES[family])
        left.plot(values, [p["cpu"] for p in points], **style)
        right.plot(values, [p["peak"] / 1e9 for p in points], **style)
    for cell, words in ((left, "CPU-seconds a step"), (right, "peak memory, GB")):
        cell.set(xlabel="tokens of a row", ylabel=words, xlim=(0, None), ylim=(0, None))
        cell.grid(alpha=0.3)
    left.legend(fontsize=8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
