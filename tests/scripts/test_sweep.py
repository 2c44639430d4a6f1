"""The sweep: the grid is checked first, finished runs are skipped, failures do not end it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from scripts import sweep
from train.core import provenance

CONFIG = """
from ml_collections import ConfigDict
VARIANTS = ("tiny",)
def get_config(variant="tiny"):
    return ConfigDict(dict(steps=4, optim=dict(lr=1.0)))
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(CONFIG)
    return str(path)


class Trainer:
    """Stands in for `python -m train`: writes what a run writes, or fails."""

    def __init__(self, fails=(), stops=()):
        self.fails, self.stops, self.seen = fails, stops, []

    def __call__(self, run, spec):
        self.seen.append(run.name)
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "log.txt").write_text("starting\nerror: no such thing\n")
        if run.name in self.fails:
            run.outcome = f"exit status 2: {sweep._last(run.folder)}"
            return
        provenance.write(run.folder, provenance.record(run.settings))
        last = 2 if run.name in self.stops else 4
        with open(run.folder / "metrics.jsonl", "a") as file:
            for step in (1, last):
                row = {"step": step, "time": 0, "loss": run.settings.optim.lr + run.seed}
                file.write(json.dumps(row) + "\n")
            file.write(json.dumps({"step": last, "time": 0, "heldout/loss": 2.0 + run.seed}) + "\n")
        if not sweep.finished(run):
            run.outcome = "stopped early"


def run(monkeypatch, spec, out, trainer, *more):
    monkeypatch.setattr(sweep, "train", trainer)
    grid = ["--grid", "optim.lr=1.0,3.0", "--seeds", "0..2"]
    return sweep.main([f"--config={spec}", *grid, f"--out={out}", *more])


def rows(out):
    return [line.split("\t") for line in (out / "table.tsv").read_text().splitlines()]


def test_a_table_of_means_and_deviations(tmp_path, monkeypatch, spec, capsys):
    trainer = Trainer()
    assert run(monkeypatch, spec, tmp_path / "out", trainer) == 0
    assert len(trainer.seen) == 6 and trainer.seen[0] == "optim.lr=1.0 seed=0"
    assert rows(tmp_path / "out") == [
        ["optim.lr", "runs", "loss", "sd", "heldout/loss", "sd"],
        ["1.0", "3/3", "2.0000", "1.0000", "3.0000", "1.0000"],
        ["3.0", "3/3", "4.0000", "1.0000", "3.0000", "1.0000"],
    ]
    assert "| 1.0      | 3/3  | 2.0000 | 1.0000 |" in capsys.readouterr().out


def test_finished_runs_are_skipped_and_others_tried_again(tmp_path, monkeypatch, spec, capsys):
    fails, stops = ("optim.lr=1.0 seed=1",), ("optim.lr=3.0 seed=2",)
    assert run(monkeypatch, spec, tmp_path / "out", Trainer(fails, stops)) == 1
    told = capsys.readouterr().out
    assert "not finished: optim.lr=1.0 seed=1: exit status 2: error: no such thing" in told
    assert "not finished: optim.lr=3.0 seed=2: stopped early" in told
    assert [row[1] for row in rows(tmp_path / "out")] == ["runs", "2/3", "2/3"]
    again = Trainer()
    assert run(monkeypatch, spec, tmp_path / "out", again) == 0
    assert again.seen == ["optim.lr=1.0 seed=1", "optim.lr=3.0 seed=2"]
    assert [row[1] for row in rows(tmp_path / "out")] == ["runs", "3/3", "3/3"]
    idle = Trainer()
    assert run(monkeypatch, spec, tmp_path / "out", idle) == 0 and idle.seen == []


def test_a_run_without_its_last_evaluation_is_not_finished(tmp_path, monkeypatch, spec):
    run(monkeypatch, spec, tmp_path / "out", Trainer())
    path = next((tmp_path / "out").glob("*lr=1.0,seed=0")) / "metrics.jsonl"
    path.write_text(
        "".join(path.read_text().splitlines(True)[:-1]) + '{"step": 2, "heldout/loss": 1}\n'
    )
    again = Trainer()
    run(monkeypatch, spec, tmp_path / "out", again)
    assert again.seen == ["optim.lr=1.0 seed=0"]


def test_a_folder_of_another_config_is_refused(tmp_path, monkeypatch, spec):
    run(monkeypatch, spec, tmp_path / "out", Trainer())
    with pytest.raises(ValueError, match=r"(?s)another config: steps is 4 there and 5 here.*--out"):
        run(monkeypatch, spec, tmp_path / "out", Trainer(), "--config.steps=5")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--grid", "optim.lrr=1"], "optim.lrr"),
        (["--grid", "optim.warmup=1.5"], "whole number"),
        (["--grid", "optim.warmup"], "FIELD=VALUE"),
        (["--grid", "optim.warmup=1,1"], "twice"),
        (["--grid", "optim.lr=1"], "twice"),
        (["--grid", "optim.clip=0.5,5e-1"], "are the same"),
        (["--grid", "seed=1"], "--seeds"),
        (["--grid", "optim.warmup=2,9"], "longer than config.steps=4"),
        (["--seeds", "2..1"], "FIRST..LAST"),
        (["--seeds", "0,0"], "distinct"),
        (["config.steps=5"], "did you mean --config.steps=5"),
    ],
)
def test_mistakes_are_found_before_the_first_run(tmp_path, monkeypatch, spec, more, words):
    trainer = Trainer()
    with pytest.raises(ValueError, match=words):
        run(monkeypatch, spec, tmp_path / "out", trainer, *more)
    assert trainer.seen == []


def test_values_with_brackets_are_one_value():
    assert sweep.axis("phases=((2,8,4),),((1,8,4),(2,8,8))") == (
        "phases", ("((2,8,4),)", "((1,8,4),(2,8,8))"),
    )  # fmt: skip
    assert sweep.axis("config.optim.name=adamw,muon") == ("optim.name", ("adamw", "muon"))
    assert sweep.seeds("0..3") == (0, 1, 2, 3) and sweep.seeds("7") == (7,)


def test_the_command_is_a_run_of_train(tmp_path, spec):
    options = sweep._parser().parse_args([f"--config={spec}", f"--out={tmp_path}"])
    (one,) = sweep.plan(options, ["--config.steps=3"])
    seen = {}

    class Child:
        def __init__(self, command, stdout, stderr, env, start_new_session):
            seen.update(command=command, env=env, apart=start_new_session)
            stdout.write("error: something\n")

        def wait(self):
            return 2

    sweep.train(one, spec, Child)
    assert seen["command"] == [
        sys.executable, "-m", "train", f"--config={spec}", "--config.steps=3", "--config.seed=0",
        f"--workdir={one.folder}",
    ]  # fmt: skip
    assert seen["apart"] and one.outcome == "exit status 2: error: something"
    assert (one.folder / "log.txt").read_text().startswith(sys.executable)


def test_without_a_place_the_config_names_it(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "train", Trainer())
    assert sweep.main([f"--config={spec}:tiny", "--grid", "optim.lr=1.0"]) == 0
    assert (tmp_path / "runs" / "sweep-toy-tiny" / "table.md").is_file()


def test_a_run_that_early_stopping_ended_is_finished(tmp_path, monkeypatch, spec):
    held = {"history": [[1, 2.0], [2, 3.0]]}  # as the first runs wrote it, without the metric
    more = ["--config.best.metric=heldout/loss", "--config.best.mode=min"]
    stops = ("optim.lr=3.0 seed=2",)
    assert run(monkeypatch, spec, tmp_path / "out", Trainer(stops=stops), *more) == 1
    (folder,) = (tmp_path / "out").glob("*lr=3.0,seed=2")
    (folder / "best.json").write_text(json.dumps(held))
    again = Trainer(stops=stops)
    assert run(monkeypatch, spec, tmp_path / "out", again, *more) == 1  # no patience, so no end
    more += ["--config.best.patience=1"]
    assert run(monkeypatch, spec, tmp_path / "early", Trainer(stops=stops), *more) == 1
    (folder,) = (tmp_path / "early").glob("*lr=3.0,seed=2")
    (folder / "best.json").write_text(json.dumps(held))
    idle = Trainer()
    assert run(monkeypatch, spec, tmp_path / "early", idle, *more) == 0 and idle.seen == []
    assert rows(tmp_path / "early")[2][1] == "3/3"


def test_a_metric_that_no_run_has_is_said(tmp_path, monkeypatch, spec, capsys):
    run(monkeypatch, spec, tmp_path / "out", Trainer(), "--metrics", "heldout/los", "loss")
    told = capsys.readouterr().out
    assert 'no run has the metric "heldout/los"; did you mean "heldout/loss"?' in told


def test_empty_and_long_values_and_bars(tmp_path, capsys):
    assert sweep.axis("optim.freeze='',embed") == ("optim.freeze", ("", "embed"))
    long = "kernel|" * 60
    names = [sweep._folder((("optim.decay", long + end),), 3) for end in ("a", "b")]
    assert max(map(len, names)) < 255 and len(set(names)) == 2
    assert all(name.startswith("optim.decay=kernel") and name.endswith(",seed=3") for name in names)
    sweep.write([["optim.decay", "loss"], ["a|b", "1"]], tmp_path)
    assert r"a\|b" in (tmp_path / "table.md").read_text()
    assert "a|b\t1" in (tmp_path / "table.tsv").read_text()


def test_sigterm_ends_the_run_under_way(tmp_path):
    """The trainer here is any child that a sweep has: a config that takes its time."""
    path = tmp_path / "slow.py"
    path.write_text(
        "import os, sys, time\n" + CONFIG + "    \n"
        "if '--workdir' in ' '.join(sys.argv):\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(120)\n"
    )
    command = [sys.executable, "-m", "scripts.sweep", f"--config={path}", f"--out={tmp_path / 'o'}"]
    child = subprocess.Popen(command, cwd=sweep.ROOT, stdout=subprocess.DEVNULL)
    began = time.monotonic()
    while not (tmp_path / "pid").exists() and time.monotonic() - began < 60:
        time.sleep(0.05)
    time.sleep(0.2)
    pid = int((tmp_path / "pid").read_text())
    child.terminate()
    assert child.wait(60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
