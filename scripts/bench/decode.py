"""`bench decode`: generation of ours and of transformers' `generate`, in turns, with the same weights.

    python -m scripts.bench decode --size 124m --against transformers --torch_python PATH
    python -m scripts.bench decode --size 12m --rounds 2 --modes greedy1          (quick)
    python -m scripts.bench decode --size 124m --threads 2                        (wall)

Ours is `models.generate.generate` with the layers apart and the kernels turned beforehand, in place of
their own form (`models.step.turned`; within a call it takes what a few tokens take). A process of its own
writes fresh weights, which all sides read (variants of another size have their own), so that they must produce the
same tokens; the table says whether they do.
Prompts are random tokens (sources, where the family has an encoder), nothing ends a row, so every row gets
`--new` tokens. Modes: greedy1 and greedy8 (rows), beam4 (one row, four beams). The first call compiles; what it
takes of memory has a column of its own.

`--threads` are every side's cores, as in `bench train`. The memory bound is the weights' bytes over the
bandwidth that this machine reaches in the same run (reading 512 MB, or scaling them in place, whichever is
faster): one row cannot be decoded faster than the weights are read.
"""

import contextlib
import sys
import tempfile
import time
from pathlib import Path

from scripts.bench import lanes as bench_lanes
from scripts.bench import sizes, tables
from scripts.bench.lanes import Lane, say

HELP = "greedy and beam decoding against transformers' generate, and the memory bound"
SETTINGS = ("stock", "best", "bf16")
MODES = {"greedy1": (1, 1), "greedy8": (8, 1), "beam4": (1, 4)}  # rows, beams


def arguments(parser):
    """Adds what this benchmark takes."""
    parser.description = __doc__
    parser.add_argument("--modes", nargs="+", choices=tuple(MODES), default=list(MODES))
    parser.add_argument("--prompt", type=int, default=32, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=32, help="new tokens of each row")
    sides(parser)


def sides(parser):
    """Adds what says which model is measured, against whom and how often."""
    parser.add_argument("--family", default="gpt2")
    parser.add_argument("--size", default="124m")
    parser.add_argument(
        "--against", nargs="+", choices=("transformers", "none"), default=["transformers"]
    )
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["stock", "best"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads", type=int, choices=(1, 2), default=1, help="and cores, of a side"
    )
    parser.add_argument("--variants", nargs="+", default=[""], help="ours: option=value,...")
    parser.add_argument("--torch_python", default=sys.executable, help="an interpreter with torch")
    parser.add_argument("--out", default="", help="keep the result as JSON")


def run(args) -> int:
    """Measures, prints the tables and, with `--out`, keeps the result."""
    return tables.finish(args, measure(args), table)


def measure(args) -> dict:
    """The whole benchmark as a dict; `table` reads it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        started = [stack.enter_context(lane) for lane in lanes(args, Path(folder))]
        modes = {mode: turns(started, args, mode) for mode in args.modes}
        bandwidth = started[0].ask("bandwidth") if "greedy1" in args.modes else {}
    names = ("family", "size", "prompt", "new", "rounds", "threads")
    return {
        "bench": "decode",
        "command": tables.command("decode", args),
        "device": tables.device(),
        **{name: getattr(args, name) for name in names},
        "cores": args.threads,
        "weight_bytes": started[0].info["weight_bytes"],
        "bandwidth": bandwidth,
        "info": {lane.name: lane.info for lane in started},
        "modes": modes,
    }


def lanes(args, folder, kind: str = "decode", **more) -> list:
    """Ours first: it writes the weights that the peers read. kind, more: what the workers are told.

    ValueError for a family that writes nothing, or, in a rollout, reads with a stack of its own.
    """
    from models.build import count
    from models.interop import describe

    o, weights = sizes.options(args.family, args.size), folder / "weights"
    job = {"kind": kind, "model": o.plain(), "threads": args.threads, **more}
    fit = ("decoder",) if kind == "rollout" else ("decoder", "encdec")
    if o.kind not in fit:
        raise ValueError(
            f"bench {kind} needs a {' or '.join(fit)}; {args.family} is of kind {o.kind}"
        )
    made, against = [], "transformers" in args.against
    if against and kind == "decode":
        write = {"kind": "export", "model": o.plain(), "weights": str(weights)}
        with Lane("weights", sys.executable, "scripts.bench.ours", write, folder):
            say("written for all sides")
    for text in args.variants:
        change = sizes.variant(text)
        mine = {**job, "model": o.replace(**change).plain(), "side": "formulary"}
        if against and kind == "decode" and count(o.replace(**change)) == count(o):
            mine["weights"] = str(weights)
        elif against and kind == "rollout" and not made:
            mine["export"] = str(weights)
        name = f"formulary {text}".strip()
        made.append(
            Lane(name, sys.executable, "scripts.bench.ours", mine, folder, (), args.threads)
        )
    if not against:
        return made
    bench_lanes.find_torch(args.torch_python, ("torch", "transformers"))
    for setting in dict.fromkeys(args.settings):
        environment = bench_lanes.threads(args.threads)
        if setting != "stock":
            environment |= bench_lanes.preload(folder)
        theirs = {
            **job, "reference": describe.write(o), "weights": str(weights), "setting": setting,
            "autocast": setting == "bf16", "use_cache": True, "side": "transformers",
        }  # fmt: skip
        name = f"transformers {setting}"
        module = "scripts.bench.peer"
        lane = Lane(name, args.torch_python, module, theirs, folder, environment, args.threads)
        made.append(lane)
    return made


def turns(started, args, mode) -> list:
    """What every side gave in one mode, and whether its tokens are those of ours."""
    rows, beams = MODES[mode]
    say(f"{mode}: {rows} x ({args.prompt} + {args.new} tokens), beams {beams}")
    request, first = dict(rows=rows, beams=beams, prompt=args.prompt, new=args.new), {}
    for lane in started:
        lane.rows = []
        lane.ask("generate", **request)
        first[lane.name] = lane.ask("settle")["peak"]
    bench_lanes.interleave(started, args.rounds, "generate", **request)
    single = {}
    if mode == "greedy1":  # the prompt's part alone, so that a token's can be told
        for lane in started:
            alone = [lane.ask("generate", **{**request, "new": 1}) for _ in range(args.rounds + 1)]
            single[lane.name] = {k: bench_lanes.median(alone[1:], k) for k in ("cpu", "wall")}
            time.sleep(bench_lanes.PAUSE)
    wanted = started[0].rows[-1]["tokens"]
    return [
        {
            "name": lane.name,
            "side": lane.job["side"],
            "cpu": [row["cpu"] for row in lane.rows],
            "wall": [row["wall"] for row in lane.rows],
            "peak": lane.rows[-1]["peak"],
            "first_peak": first[lane.name],
            "equal": equal(wanted, lane.rows[-1]["tokens"]),
            "single": single.get(lane.name),
        }
        for lane in started
    ]


def equal(mine, theirs) -> float:
    """The share of new tokens that are the same up to the first difference in their row."""
    same = total = 0
    for a, b in zip(mine, theirs, strict=True):
        first = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
        same, total = same + first, total + len(a)
    return same / total


def table(result: dict) -> str:
    """Seconds by mode and side, ratios over ours, and the memory bound."""
    metric = "cpu" if result["threads"] == 1 else "wall"
    rows = []
    for mode, sides in result["modes"].items():
        own = sides[0]
        tokens = result["new"] * MODES[mode][0]
        for s in sides:
            r = tables.ratios(tables.as_rows(own, metric), tables.as_rows(s, metric), metric)
            ratio = "" if s is own else f"{r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f})"
            rows.append([
                mode, s["name"], tables.seconds_text(s["cpu"]),
                tables.seconds_text(s["wall"]),
                f"{tokens / tables.median_of(s, 'wall'):.1f}", ratio,
                f"{100 * s['equal']:.0f} %", f"{s['peak'] / 1e9:.2f}",
                f"{s['first_peak'] / 1e9:.2f}" if "first_peak" in s else "",
            ])  # fmt: skip
    what = tables.measured(result)
    head = [
        f"{result['family']} {result['size']}, {result['prompt']} + {result['new']}", "side",
        "CPU-s", "wall s", "tokens/s (wall)", f"ratio over ours ({what})", "same tokens", "peak GB",
        "of the first call",
    ]  # fmt: skip
    parts = [tables.grid(head, rows), bound(result)]
    return "\n\n".join(part for part in parts if part)


def bound(result) -> str:
    """How far a token of one row is from the time that reading the weights takes."""
    if not result["bandwidth"]:
        return ""
    found = result["bandwidth"]
    best = max(found["read"], found["scale"])
    least = result["weight_bytes"] / best
    lines = [
        f"Memory bound of one row: {result['weight_bytes'] / 1e6:.0f} MB of weights at "
        f"{best / 1e9:.1f} GB/s (read {found['read'] / 1e9:.1f}, in-place scale "
        f"{found['scale'] / 1e9:.1f}) = {least * 1e3:.1f} ms a token."
    ]
    for s in result["modes"]["greedy1"]:
        whole = tables.median_of(s, "wall")
        each = whole / result["new"]
        after = (whole - s["single"]["wall"]) / max(result["new"] - 1, 1)
        lines.append(
            f"{s['name']}: {each * 1e3:.1f} ms a token with the prompt ({each / least:.2f} of the "
            f"bound), {after * 1e3:.1f} ms without ({after / least:.2f})."
        )
    return "\n".join(f"- {line}" for line in lines)
