"""`bench shakespeare`: bits per character on held-out works after the same wall minutes as torch.

    python -m scripts.bench shakespeare --against torch --settings stock best --minutes 3 \\
        --seeds 0 1 2 --lrs 5e-4 1e-3 2e-3 --torch_python PATH

Both sides train the architecture of `configs/shakespeare.py` on the same batches in the same order
and are scored on the same whole works. Each side first runs some calibration steps; the number of
steps that fit into the minutes follows from them, compilation included, and the learning rate's
schedule spans exactly these steps. (A schedule by the clock would tie the result to every hiccup of
the machine; the seconds really used are in the table, and more than 5 % off is said beside it.)
Every learning rate is tried on the first seed; the best one of each side then gets the other seeds.
Runs of the sides alternate, so that a slow spell of the machine meets all of them. Finished runs
are kept in runs.jsonl and are not done again.

The settings of torch: `stock` is float32 as pip installs it; `shim` preloads the two-line library
that lets MKL use all of an AMD processor; `bf16` adds autocast to that, `compiled` torch.compile;
`best` is the one of shim and bf16 that calibrates faster.
"""

import os
import platform
import statistics
import sys
from pathlib import Path

from scripts.bench import material, report

SETTINGS = ("stock", "shim", "bf16", "compiled", "best")
HELP = "bits per character on held-out Shakespeare, against torch in the same minutes"


def arguments(parser):
    """Adds what this benchmark takes."""
    parser.add_argument("--config", default="configs/shakespeare.py")
    parser.add_argument("--against", nargs="+", choices=("torch",), default=["torch"])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["stock", "best"])
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, wall, each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lrs", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3])
    parser.add_argument("--points", type=int, default=5, help="evaluations in each curve")
    parser.add_argument("--calibrate", type=int, default=40, help="steps of calibration")
    parser.add_argument("--torch_python", default=sys.executable, help="an interpreter with torch")
    parser.add_argument("--out", default="runs/bench/shakespeare")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="of the config, for both sides"
    )


def run(args) -> int:
    """Runs what is missing and writes runs.jsonl, report.md and curves.png into `--out`."""
    from scripts.bench.sides import Ours, Shared, Torch

    out = Path(args.out)
    shared = Shared(args.config, [f"--config.{text}" for text in args.set], out, args.points)
    lanes = [Lane(Ours(shared), args)]
    for setting in dict.fromkeys(args.settings):
        names = ("shim", "bf16") if setting == "best" else (setting,)
        tried = [Lane(Torch(shared, name, args.torch_python), args) for name in names]
        lanes.append(min(tried, key=lambda lane: lane.step))
        if setting == "best":
            lanes[-1].name = f"torch best ({lanes[-1].side.setting})"
    seed, *others = args.seeds
    for lr in args.lrs:
        for lane in lanes:
            lane.once(out, lr, seed)
    for other in others:
        for lane in lanes:
            lane.once(out, report.best_lr(finished(out, lanes), lane.name), other)
    title = f"{args.config}: {args.minutes:g} minutes of training"
    notes = describe(args, lanes, shared.config.optim)
    print(report.write(finished(out, lanes), out, args.minutes, notes, title))
    print(f"written: {out}/report.md, curves.png, runs.jsonl")
    return 0


class Lane:
    """A side with what its calibration gave: the seconds of a step, and the steps that fit."""

    def __init__(self, side, args):
        self.side, self.name, self.minutes = side, side.name, args.minutes
        result = side.run(args.lrs[0], args.seeds[0], args.calibrate, calibrate=True)
        self.step, self.first = pace(result["times"])
        self.steps = fitting(self.name, self.step, self.first, args.minutes, args.points)
        self.version = result["version"]
        print(f"{self.name}: {self.step * 1e3:.0f} ms a step, {self.steps} steps", flush=True)

    def once(self, out: Path, lr: float, seed: int):
        """Trains and scores one run unless it is on record."""
        for row in finished(out, [self]):
            if (row["lr"], row["seed"]) == (lr, seed):
                return
        result = self.side.run(lr, seed, self.steps)
        result.pop("times")
        row = {"side": self.name, "lr": lr, "seed": seed, "minutes": self.minutes, **result}
        report.append(out / "runs.jsonl", row)
        score, used = row[self.side.score], row["seconds"] / 60
        print(f"{self.name} lr {lr:g} seed {seed}: {score:.4f} in {used:.2f} min", flush=True)


def pace(times: list) -> tuple:
    """(median seconds of a step, seconds that all took above that: compilation, of every shape)."""
    if len(times) < 2:
        raise ValueError("a calibration needs at least two steps: give --calibrate more")
    step = statistics.median(times[1:])
    return step, max(0.0, sum(times) - step * len(times))


def fitting(name: str, step: float, first: float, minutes: float, points: int) -> int:
    """The number of steps that fit into the minutes; ValueError if too few for the curve."""
    steps = int((minutes * 60 - first) / step)
    if steps < points:
        raise ValueError(
            f"{name}: {max(steps, 0)} steps fit into {minutes:g} minutes ({first:.1f} s to start, "
            f"{step:.2f} s a step); give --minutes more"
        )
    return steps


def finished(out: Path, lanes) -> list:
    """The runs on record of these lanes, with their minutes, in the order of their end."""
    wanted = {(lane.name, lane.minutes) for lane in lanes}
    rows = report.load(out / "runs.jsonl")
    return [row for row in rows if (row["side"], row["minutes"]) in wanted]


def describe(args, lanes, optim) -> list:
    """How it was done, for the report."""
    numbers = " ".join(f"{lr:g}" for lr in args.lrs)
    seeds = " ".join(str(seed) for seed in args.seeds)
    command = (
        f"python -m scripts.bench shakespeare --against torch --settings {' '.join(args.settings)} "
        f"--minutes {args.minutes:g} --seeds {seeds} --lrs {numbers}"
    )
    lines = [f"`{command}` on {processor()}."]
    for lane in lanes:
        lines.append(
            f"{lane.name}: {lane.version}; {lane.step * 1e3:.0f} ms a step and {lane.first:.1f} s "
            "to start when calibrated."
        )
    return lines + [f"Not on the peer's side: {text}." for text in material.differences(optim)]


def processor() -> str:
    """The processor's name and the number of cores that this process may use."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"
