"""What the benchmarks say: results as JSON files and as markdown tables."""

import datetime
import json
import os
import platform
import shlex
from importlib import metadata
from pathlib import Path

from scripts.bench.contest import processor
from scripts.bench.lanes import median, ratios, say

FIRST = ("init_seconds", "trace_seconds", "compile_seconds", "first_step_seconds")
UNSAID = ("torch_python", "out", "command", "only")


def device() -> dict:
    """The machine and the versions, as the operating system and the packages say."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "processor": processor(),
        "memory": memory,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names},
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def command(name: str, args) -> str:
    """The command that gives a result again, the paths of one machine left out."""
    words = ["python", "-m", "scripts.bench", name]
    for key, value in vars(args).items():
        if key in UNSAID or value is False or value is None:
            continue
        words.append(f"--{key}")
        if value is not True:
            words += [shlex.quote(str(v)) for v in (value if isinstance(value, list) else [value])]
    return " ".join(words)


def keep(result: dict, path):
    """Writes a result as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def finish(args, result: dict, table, draw=None) -> int:
    """What a benchmark does with its result: prints its table, draws it into `--figure`, keeps it as `--out`."""
    print(table(result))
    if draw:
        draw(result, args.figure)
        say(f"drawn: {args.figure}")
    if args.out:
        keep(result, args.out)
    return 0


def grid(head, rows) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def train(result: dict) -> str:
    """The table of one `bench train`, the ratios against each of ours, and the peaks."""
    metric = "cpu" if result["threads"] == 1 else "wall"
    rows = []
    for s in result["sides"]:
        info, seconds = s["info"], median_of(s, metric)
        rows.append([
            s["name"], seconds_text(s["cpu"]), seconds_text(s["wall"]), share(result, s, metric),
            per_second(result["batch"] * result["length"] / seconds), f"{s['peak'] / 1e9:.2f}",
            f"{info['trace_seconds']:.1f} + {info['compile_seconds']:.1f}"
            if "compile_seconds" in info else "",
            f"{sum(info.get(name, 0) for name in FIRST):.1f}",
            f"{info['first_loss']:.4f}",
        ])  # fmt: skip
    what = "CPU-s" if metric == "cpu" else "wall s"
    each = f" x {result['length']}" if result["length"] > 1 else " images"
    head = [
        f"{result['family']} {result['size']}, {result['batch']}{each}",
        "CPU-s a step", "wall s a step", f"share of matmul peak ({what})",
        f"{'tokens' if result['length'] > 1 else 'images'} per {what}",
        "peak GB", "trace + compile s", "s to first step", "first loss",
    ]  # fmt: skip
    parts = [grid(head, rows), against(result, metric)]
    return "\n\n".join(part for part in [*parts, peak_line(result), first_line(result)] if part)


def per_second(value: float) -> str:
    """Tokens or images a second: whole, or with a decimal where there are few."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def median_of(s: dict, metric: str) -> float:
    return median([{metric: x} for x in s[metric]], metric)


def seconds_text(values) -> str:
    middle = median([{"x": x} for x in values], "x")
    return f"{middle:.3f} ({min(values):.3f} to {max(values):.3f})"


def share(result, s, metric) -> str:
    """FLOPs over seconds over the peak of the side's type: one core for CPU-seconds, two for wall."""
    peaks = result["peaks"].get(s["dtype"])
    if not peaks:
        return ""
    rate = result["flops"] / median_of(s, metric)
    return f"{100 * rate / peaks['1' if metric == 'cpu' else '2']:.0f} %"


def against(result, metric) -> str:
    """Every other side over each of ours; above 1, ours is faster."""
    mine = [s for s in result["sides"] if s["side"] == "formulary"]
    others = result["sides"] if len(mine) > 1 else [s for s in result["sides"] if s not in mine]
    if not others:
        return ""
    rows = []
    for s in others:
        cells = []
        for own in mine:
            r = ratios(as_rows(own, metric), as_rows(s, metric), metric)
            cells.append(
                "" if own is s else f"{r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f})"
            )
        rows.append([s["name"], *cells])
    what = measured(result)
    return grid([f"ratio over ours, {what}", *(own["name"] for own in mine)], rows)


def measured(result) -> str:
    """What is compared; results of before `cores` gave torch one thread and ours every core."""
    if result["threads"] > 1:
        return "wall, 2 cores"
    return "CPU-s, 1 core" if "cores" in result else "CPU-s, torch at 1 thread"


def as_rows(s, metric) -> list:
    return [{metric: x} for x in s[metric]]


def peak_line(result) -> str:
    if not result["peaks"]:
        return ""
    said = [
        f"{dtype} {rate / 1e9:.0f} ({cores} core{'s' if cores == '2' else ''})"
        for dtype, found in result["peaks"].items()
        for cores, rate in found.items()
    ]
    flops = f"{result['flops'] / 1e9:.1f} GFLOP a step"
    rule = (
        "6 N + 12 L T D a token" if result["length"] > 1 else "three times XLA's count of forward"
    )
    return f"Matmul peak, GFLOP/s: {', '.join(said)}; {flops} ({rule})."


def first_line(result) -> str:
    first = result.get("first")
    if not first:
        return ""
    return (
        f"From entering `fit` to the first loss: {first['cold']:.1f} s cold, {first['warm']:.1f} s "
        "with the compilation cache."
    )
