"""Trains a config over a grid and seeds, one run after the other, and ends with one table.

    python -m scripts.sweep --config=configs/gpt2.py:tiny --grid optim.lr=1e-3,3e-4 --seeds 0..2 \
        [--out runs/sweep-gpt2-tiny] [--config.steps=100 ...] [--metrics heldout/bits_per_character]

Each run has a folder under --out (by default runs/sweep- and the config's name) and is
`python -m train` with that folder as its workdir. Started again, a sweep skips the runs whose
run.json has this very config and whose metrics reach the last step; it resumes the others. SIGTERM and
Ctrl-C stop the run that trains, which saves, and then the sweep; a second one kills it. A run that
fails is reported with the end of its log and the rest goes on (so is one whose folder another process
trains in); the exit status is then 1. The table (mean and sample standard deviation over seeds) is
printed and written to table.md and table.tsv.
"""

import itertools
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ml_collections import ConfigDict

from train.core import arguments, best, config, errors, log, preempt, provenance, validate

ROOT = Path(__file__).resolve().parents[1]
ENDINGS = ("/loss", "/bits_per_character", "/accuracy")
LONGEST = 200  # bytes of a folder's name; file systems take 255


@dataclass
class Run:
    """One cell of the sweep: a grid point with a seed."""

    point: tuple  # (field, text) pairs of the grid
    seed: int
    settings: ConfigDict
    overrides: tuple
    folder: Path
    outcome: str = ""  # "" until it is finished, then "ok" or what went wrong
    final: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " ".join([*(f"{key}={value}" for key, value in self.point), f"seed={self.seed}"])


def main(argv=None) -> int:
    """The command; returns 0 if every run of the grid is finished."""
    options, rest = _parser().parse_known_args(argv)
    options.out = options.out or _place(options.config)
    runs = plan(options, rest)
    print(f"{len(runs)} runs under {options.out}", flush=True)
    for number, run in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {run.name}: ", end="", flush=True)
        began = time.monotonic()
        if finished(run):
            print("finished before", flush=True)
            continue
        train(run, options.config)
        shown = ", ".join(f"{k} {v:.4f}" for k, v in _chosen(run.final, options.metrics).items())
        told = f"{shown or 'done'} ({time.monotonic() - began:.0f} s)"
        print(told if run.outcome == "ok" else run.outcome, flush=True)
    rows = table(runs, options.metrics)
    write(rows, Path(options.out))
    given = {name for run in runs for name in run.final}
    for name in options.metrics:
        if given and name not in given:
            print(f'no run has the metric "{name}"; {errors.nearest(name, sorted(given))}')
    failed = [run for run in runs if run.outcome != "ok"]
    for run in failed:
        print(f"not finished: {run.name}: {run.outcome}; log: {run.folder / 'log.txt'}")
    return 1 if failed else 0


def _parser():
    parser = errors.Parser(prog="python -m scripts.sweep", description=__doc__)
    parser.add_argument("--config", required=True, help="FILE or FILE:VARIANT")
    parser.add_argument("--grid", action="append", default=[], help="FIELD=VALUE,VALUE,...")
    parser.add_argument("--seeds", default="0", help="0..2 (both ends) or 0,3,7")
    parser.add_argument("--out", help="folder for the runs and the table")
    parser.add_argument("--metrics", nargs="+", default=[], help="columns; default: the losses")
    return parser


def _place(config: str) -> str:
    """The folder of a sweep over a config that was given none."""
    file, _, variant = config.partition(":")
    return "-".join(["runs/sweep", Path(file).stem, *([variant] if variant else [])])


def plan(options, rest) -> list:
    """The runs, grid points in order and seeds inside, all of them checked.

    ValueError for an unknown field, a wrong value, two equal grid points, or a folder that holds a
    run of another config.
    """
    axes = [axis(text) for text in options.grid]
    names = [name for name, _ in axes]
    if len(set(names)) < len(names):
        raise ValueError(f"--grid names a field twice: {', '.join(names)}")
    if "seed" in names:
        raise ValueError("--grid has seed; use --seeds")
    runs, folders = [], set()
    for values in itertools.product(*(values for _, values in axes)):
        for seed in seeds(options.seeds):
            point = tuple(zip(names, values, strict=True))
            given = tuple(f"--config.{key}={value}" for key, value in point)
            overrides = (*rest, *given, f"--config.seed={seed}")
            settings = config.load(options.config)
            arguments.override(settings, overrides)
            settings = config.complete(settings).lock()
            validate.validate(settings)
            folder = Path(options.out) / _folder(point, seed)
            if folder in folders:
                raise ValueError(f"two runs of the grid would share the folder {folder}")
            folders.add(folder)
            same = next((run for run in runs if run.settings == settings), None)
            if same:
                raise ValueError(f"two runs of the grid are the same: {same.folder} and {folder}")
            refuse_other(folder, settings)
            runs.append(Run(point, seed, settings, overrides, folder))
    return runs


def axis(text: str) -> tuple:
    """(field, values) of `optim.lr=1e-3,3e-4`; commas inside brackets do not separate."""
    name, equals, values = text.partition("=")
    parts, depth = [""], 0
    for letter in values:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    if not equals or not name or not all(parts):
        raise ValueError(f"--grid \"{text}\": expected FIELD=VALUE,VALUE; '' is an empty value")
    name = name.removeprefix("--").removeprefix("config.")
    if len(set(parts)) < len(parts):
        raise ValueError(f'--grid "{text}" has a value twice')
    return name, tuple("" if part in ("''", '""') else part for part in parts)


def seeds(text: str) -> tuple:
    """The seeds of `0..2` (both ends), `3` or `0,3,7`."""
    span = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if span:
        first, last = int(span[1]), int(span[2])
        if first <= last:
            return tuple(range(first, last + 1))
    elif re.fullmatch(r"\d+(,\d+)*", text):
        found = tuple(int(part) for part in text.split(","))
        if len(set(found)) == len(found):
            return found
    raise ValueError(f'--seeds "{text}": expected FIRST..LAST or distinct numbers like 0,3,7')


def _folder(point, seed) -> str:
    parts = [f"{key}={value}" for key, value in point] + [f"seed={seed}"]
    plain = re.sub(r"[^\w.,=+-]", "_", ",".join(parts))
    if len(plain.encode()) <= LONGEST:
        return plain
    return f"{plain[: LONGEST // 4]}...{zlib.crc32(repr(parts).encode()):08x},seed={seed}"


def refuse_other(folder, settings):
    """ValueError for a folder that holds a run of another config."""
    if not (folder / provenance.NAME).exists():
        return
    rows = provenance.changes(folder, settings)
    if rows:
        name, old, new = rows[0]
        raise ValueError(
            f"{folder} holds a run of another config: {name} is {old!r} there and {new!r} here\n"
            "choose another --out, or remove that folder"
        )


def finished(run: Run) -> bool:
    """Whether the folder has this run, complete; fills in `final` and `outcome` if so.

    Complete is: run.json with this config, and metrics of the last step, or of the one that early
    stopping ended the run with. The last evaluation counts with its step, so a run that was stopped
    before its final evaluation is not complete.
    """
    try:
        changes = provenance.changes(run.folder, run.settings)
        rows = log.read(run.folder)
    except (OSError, ValueError):
        return False
    last, end = {}, best.ended(run.folder, run.settings) or run.settings.steps
    for row in rows:
        if row["step"] == end:
            last |= row
    evaluated = any("/" in name for row in rows for name in row)
    early = end < run.settings.steps  # its training loss is written every log.every steps
    complete = (early or "loss" in last) and (not evaluated or any("/" in name for name in last))
    if changes or not complete:
        return False
    run.final = {name: x for name, x in last.items() if name not in ("step", "time")}
    run.outcome = "ok"
    return True


def train(run: Run, spec: str, popen: Callable = subprocess.Popen) -> None:
    """Runs `python -m train` to its end and sets the outcome; a signal here stops it, and it saves."""
    run.folder.mkdir(parents=True, exist_ok=True)
    named = (f"--config={spec}", *run.overrides, f"--workdir={run.folder}")
    command = [sys.executable, "-m", "train", *named]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with open(run.folder / "log.txt", "a", encoding="utf-8") as output:
        output.write(" ".join(command) + "\n")
        output.flush()
        child = popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        with preempt.forwarding(child):
            status = child.wait()
    if status == 0 and finished(run):
        return
    run.outcome = "stopped early" if status == 0 else f"exit status {status}: {_last(run.folder)}"


def _last(folder) -> str:
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line for line in lines if line.startswith("error:")] or lines
    return told[-1].strip()[:200] if told else ""


def _chosen(final: dict, metrics) -> dict:
    """The columns that were asked for, else the training loss and the evaluations' main numbers."""
    if metrics:
        return {name: final[name] for name in metrics if name in final}
    return {k: v for k, v in final.items() if k == "loss" or k.endswith(ENDINGS)}


def table(runs, metrics) -> list:
    """Rows of text, the header first: grid fields, finished runs, then mean and sd per metric.

    A single run has no standard deviation: `-`. Values that are not finite make their mean so.
    """
    columns = list(dict.fromkeys(name for run in runs for name in _chosen(run.final, metrics)))
    fields = [name for name, _ in runs[0].point]
    rows = [[*fields, "runs", *(part for name in columns for part in (name, "sd"))]]
    for point, group in itertools.groupby(runs, key=lambda run: run.point):
        group = list(group)
        done = [run.final for run in group if run.outcome == "ok"]
        row = [*(value for _, value in point), f"{len(done)}/{len(group)}"]
        for name in columns:
            values = [final[name] for final in done if name in final]
            row += [_mean(values), _deviation(values)]
        rows.append(row)
    return rows


def _mean(values) -> str:
    return f"{statistics.fmean(values):.4f}" if values else "-"


def _deviation(values) -> str:
    if len(values) < 2 or not all(math.isfinite(value) for value in values):
        return "-"
    return f"{statistics.stdev(values):.4f}"


def write(rows, out: Path) -> None:
    """Prints the table as Markdown and keeps it as table.md and table.tsv."""
    shown = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in shown) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(x.ljust(w) for x, w in zip(r, widths, strict=True)) + " |" for r in shown
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "table.tsv").write_text("".join("\t".join(r) + "\n" for r in rows), encoding="utf-8")
    print("\n" + "\n".join(lines))
    print(f"\n{out / 'table.md'}\n{out / 'table.tsv'}")


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, lambda number, _: sys.exit(128 + number)
    )  # `train` sees to its run
    sys.exit(errors.cleanly(main)())
