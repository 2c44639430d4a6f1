"""What the benchmarks of equal minutes share: arguments, lanes whose steps follow from a calibration, runs.

A side's `run(lr, seed, steps, calibrate)` trains one model (see `scripts.bench.sides`); its `name` and
`score`, the result that is said, stand beside. Nothing here needs jax or torch.
"""

import os
import platform
import statistics
import sys
from pathlib import Path

from scripts.bench import report


def arguments(
    parser, config: str, settings, default, minutes: float, points: int, calibrate: int, out
):
    """Adds what these benchmarks take, with one's own defaults; `settings` are the choices of torch's."""
    parser.add_argument("--config", default=config)
    parser.add_argument("--settings", nargs="+", choices=settings, default=default, help="of torch")
    parser.add_argument(
        "--minutes", type=float, default=minutes, help="of training, wall, each run"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--points", type=int, default=points, help="evaluations in each curve")
    parser.add_argument("--calibrate", type=int, default=calibrate, help="steps of calibration")
    parser.add_argument("--torch_python", default=sys.executable, help="an interpreter with torch")
    parser.add_argument("--out", default=out)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="of the config, for both sides"
    )


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


def processor() -> str:
    """The processor's name and the number of cores that this process may use."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"
