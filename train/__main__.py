"""Trains what a config describes: `python -m train --config=configs/gpt2.py:tiny --workdir=runs/a`.

    --config=FILE[:VARIANT]        the experiment; a file's variants are named by a wrong one
    --config.optim.lr=3e-4         overrides any field of the config
    --workdir=DIR                  where the run lives; started again, it goes on from there
    --print_config                 prints the resolved config and stops
    --check                        builds everything without training: parameters, memory, first
                                   batch, disk; exit status 1 if memory or disk do not suffice

Mistakes cost one to three lines and exit status 2; FORMULARY_DEBUG=1 shows where they were found.
"""

import os
import sys
from pathlib import Path

from train.core import arguments, config, errors, pages, preempt, validate


def main(argv=None) -> int:
    """The command; returns the exit status.

    One owner holds SIGTERM and Ctrl-C from here to the last line.
    """
    with preempt.owner() as stopping:
        stopping.begin()
        try:
            return _main(sys.argv[1:] if argv is None else argv)
        except preempt.Stopped:
            print("stopped before the first step; there is nothing to save", file=sys.stderr)
            return 0


def _main(argv) -> int:
    options, overrides = arguments.split(argv)
    if options["help"]:
        print(__doc__)
        return 0
    if not options["config"]:
        raise ValueError("no config; give --config=FILE or FILE:VARIANT (--help shows all)")
    settings = config.load(options["config"])
    arguments.override(settings, overrides)
    settings = config.complete(settings).lock()
    validate.validate(settings)
    if options["print_config"]:
        for name, value in config.leaves(settings):
            print(f"config.{name} = {value!r}")
        return 0
    workdir = _workdir(options["workdir"], options["check"])
    from train.core import launch

    loop = launch.loop(settings.loop)
    with launch.together():
        launch.prepare(settings)
        if options["check"]:
            from train.core import check

            return 0 if check.report(settings, *loop.check(settings), workdir) else 1
        with launch.alone(workdir):
            if launch.first():
                _changes(workdir, settings)
                print(f"{settings.loop} on {launch.describe()}; run in {workdir}", flush=True)
            stopped = _run(loop, settings, workdir)
        if launch.first():
            _results(workdir, stopped)
    return 0


def _run(loop, settings, workdir) -> bool:
    """Trains; returns whether a signal ended that early."""
    stopping = preempt.active()
    try:
        return getattr(loop.run(settings, workdir), "stopped", False)
    except preempt.Stopped:
        if not stopping.holds:
            raise
        print("stopped after training; everything is saved", file=sys.stderr)
        return False


def _workdir(text, check) -> Path:
    """The run's folder, which must be usable before minutes are spent on anything else."""
    if not text:
        if check:
            return Path.cwd()
        raise ValueError("no workdir; give --workdir=DIR, where the run's files will be")
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--workdir={text} is a file; expected a folder")
    if not check:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    return path


def _changes(workdir, settings):
    """Says what differs from the config that this workdir was last started with."""
    from train.core import provenance

    if not (workdir / provenance.NAME).is_file():
        return
    rows = provenance.changes(workdir, settings)
    for name, old, new in rows[:8]:
        print(f"note: config.{name} was {old!r} in this workdir and is {new!r}", flush=True)
    if len(rows) > 8:
        print(f"note: and {len(rows) - 8} more fields differ", flush=True)


def _results(workdir, stopped):
    """Where everything is."""
    rows = [
        ("checkpoints", workdir / "checkpoints"),
        ("metrics", workdir / "metrics.jsonl"),
        ("curves", workdir / "curves.png"),
        ("run", workdir / "run.json"),
        ("trace", workdir / "profile"),
    ]
    if stopped:
        print("stopped before the last step; the same command goes on from here")
    for name, path in rows:
        if path.exists():
            print(f"{name:<12} {path}")


def command():
    """The process: the command, then its exit status; what was said last stays the last line."""
    with preempt.owner(ends=True):
        try:
            status = errors.cleanly(main)()
        except SystemExit as leaving:
            status = leaving.code
    preempt.leave(status)
    sys.exit(status)


if __name__ == "__main__":
    pages.restart()
    command()
