"""The comparison: which runs there are and in which order, and what the report makes of them."""

import argparse
import json

import numpy as np
import pytest

from scripts import sweep
from scripts.compare import __main__ as compare
from scripts.compare import report
from train.core import provenance

ALL = argparse.Namespace(only=[], shares=[], set=[])


def pretend(run, values, every=0):
    """A finished run's files: its config, and metrics with the given last numbers."""
    run.folder.mkdir(parents=True, exist_ok=True)
    record = {"format": provenance.FORMAT, "config": provenance.encode(run.settings)}
    (run.folder / provenance.NAME).write_text(json.dumps(record))
    rows = []
    steps = range(every, run.settings.steps + 1, every) if every else [run.settings.steps]
    for step in steps:
        rows.append({"step": step, "time": 0.0, "loss": 1.0, "images_per_second": 500.0 + step})
        done = {n: v * (1 - 0.3 * (1 - step / run.settings.steps)) for n, v in values.items()}
        rows.append({"step": step, "time": 0.0, **done})
    last = {"step": run.settings.steps, "time": 0.0, "loss": 0.5}
    lines = [json.dumps(row) for row in [*rows, {**last, **values}]]
    (run.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def invented(run, rng):
    """Numbers that look like results and are none."""
    point = dict(run.point)
    if point["net"] in ("tokenizer", "beit-mim"):
        return {"valid/error": 0.2}
    level = {"0.01": 0.72, "0.1": 0.82, "1": 0.88}[point["share"]]
    better = {"resnet": 0.02, "efficientnet": 0.015, "textbook": -0.06, "vit": -0.02}
    value = level + better.get(point["net"], 0.0) + 0.006 * rng.normal()
    return {"valid/accuracy": value, "train/accuracy": value + 0.02}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    found, rng = compare.grid(out, (0, 1, 2), ALL), np.random.default_rng(0)
    for run in found:
        pretend(run, invented(run, rng), run.settings.eval.every)
    return out, found


def test_what_is_needed_comes_before(runs):
    out, found = runs
    assert len(found) == 3 * (2 + 3 * 7 + 2 * 2)
    folders = [run.folder for run in found]
    assert len(set(folders)) == len(folders)
    for number, run in enumerate(found):
        named = (run.settings.distill.teacher, run.settings.init.checkpoint, run.settings.tokenizer)
        for need in filter(None, named):
            assert need in map(str, folders[:number]), run.name
            assert f"seed={run.seed}" in need
    steps = {(run.settings.data.labelled, run.settings.steps) for run in found}
    assert steps >= {(0.01, 120), (0.1, 300), (1.0, 1410)}
    whole = [
        run for run in found if run.settings.data.labelled == 1.0 and run.settings.loop == "vision"
    ]
    assert all(run.settings.steps * run.settings.batch >= 3 * 60_000 for run in whole)


def test_nets_are_matched(runs):
    sizes = {}
    for run in runs[1][:30]:
        if run.settings.loop == "vision":
            sizes.setdefault(dict(run.point)["net"], run.settings.model.to_dict())
    sizes = {n: report.count(report.Options.of(m)) for n, m in sizes.items()}
    assert len(sizes) == 9
    assert 0.28e6 < min(sizes.values()) and max(sizes.values()) < 0.33e6


def test_finished_runs_are_left_and_reported(runs, monkeypatch, capsys):
    out, found = runs
    monkeypatch.setattr(compare.sweep, "train", lambda *_, **__: pytest.fail("trains again"))
    monkeypatch.setattr(report, "step_memory", lambda run: 12.0)
    monkeypatch.setattr(report.vision, "operations", lambda o: 1e7)
    assert compare.main(["--out", str(out)]) == 0
    assert capsys.readouterr().out.count("finished before") == len(found)
    page = (out / "report.html").read_text()
    some = [run for run in found if run.name.startswith("net=vit share=1 ")]
    assert all(sweep.finished(run) for run in some)
    values = [report.accuracy(run) for run in some]
    assert f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f} (3)" in page
    assert "BEiT: pre-training" in page and page.count("data:image/png") == 4
    rows = [line.split("\t") for line in (out / "table.tsv").read_text().splitlines()]
    assert rows[0][-1] == "100% of labels" and len(rows) == 10
    for name in ("labels", "compute", "costs", "gains"):
        assert (out / f"{name}.png").stat().st_size > 10_000


def test_the_norms(tmp_path, monkeypatch):
    found, rng = compare.norms(tmp_path, (0, 1), ALL), np.random.default_rng(0)
    assert len(found) == 2 * 2 * 2 * 4
    assert {run.settings.steps * run.settings.batch for run in found} == {25_600}
    for run in found:
        pretend(run, invented(run, rng))
        assert sweep.finished(run)
    report.write(found, tmp_path)
    assert "Batch or layer norm" in (tmp_path / "report.html").read_text()
    assert len((tmp_path / "table.tsv").read_text().splitlines()) == 17


def test_the_norms_are_chosen_changed_and_drawn_again(tmp_path, capsys):
    argv = ["report", "norms", "--out", str(tmp_path), "--seeds", "0", "--only", "vit"]
    argv += ["--set", "optim.clip=0.5"]
    options = compare._arguments(argv)
    found, rng = compare.norms(tmp_path, (0,), options), np.random.default_rng(0)
    assert {(dict(run.point)["net"], run.settings.optim.clip) for run in found} == {("vit", 0.5)}
    for run in found[1:]:
        pretend(run, invented(run, rng))
    assert compare.main(argv) == 1, "one has not run"
    assert "Batch or layer norm" in (tmp_path / "report.html").read_text()
    assert f"not finished: {found[0].name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["--only", "vitt"], "no net 'vitt'.*vit"), (["--shares", "0.5"], "no share 0.5"),
     (["--seeds", "2..0"], "--seeds"), (["norms", "--only", "swin"], "no net 'swin'"),
     (["norms", "--shares", "1"], "--shares is for the first grid"),
     (["grid", "norms"], "grid takes no 'norms' behind it")],
)  # fmt: skip
def test_mistakes(argv, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        compare.main([*argv, "--out", str(tmp_path)])
