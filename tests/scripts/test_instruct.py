"""The demo's task and measures: a judge that depends on the request, noise, splits, intervals."""

import json
import types

import numpy as np
import pytest

from scripts.instruct import __main__ as instruct
from scripts.instruct import measure, report, stages, task
from train.core import validate

LEXICON = {"great": 0.6, "awful": -0.5}


@pytest.fixture(autouse=True)
def judge(monkeypatch):
    """A judge of two words in place of VADER, which is an extra."""
    found = lambda text: sum(LEXICON.get(word, 0) for word in text.split())
    monkeypatch.setattr(task, "compound", found)


def test_the_judge_asks_for_mood_aspect_and_an_end():
    ask = "great the plot of the comedy"
    good = task.gold(ask, " the plot was great", True)
    assert good == pytest.approx(4 * 0.6 + 2)
    assert task.gold(ask, " the cast was great", True) == pytest.approx(good - 2)
    assert task.gold(ask, " the plot was great", False) == pytest.approx(good - 2)
    assert task.gold(ask.replace("great", "terrible"), " the plot was great", True) < 0
    assert task.gold(ask, " the plot was great great great", True) < 4 * 1.8 + 2
    assert task.gold(ask, "", False) == -5


def test_reviews_follow_as_much_as_they_are_told():
    rng = np.random.default_rng(0)
    ask = "great the music of the epic"
    share = [
        np.mean(["music" in task.review(rng, ask, follow) for _ in range(300)])
        for follow in (0.0, 0.5, 1.0)
    ]
    assert share[0] < 0.4 < share[1] < share[2] == 1


def test_labellers_rank_by_gold_through_noise():
    rng = np.random.default_rng(0)
    right = np.mean([task.ranks([1.0, 0.0], rng) == [1, 2] for _ in range(4000)])
    assert right == pytest.approx(1 / (1 + np.exp(-1)), abs=0.03)
    assert sorted(task.ranks([0.1, 3.0, 2.0, 1.0], rng)) == [1, 2, 3, 4]


def test_judged_requests_are_used_nowhere_else():
    parts = instruct.split()
    assert len(parts["judged"]) == 40 and not set(parts["judged"]) & set(parts["used"])
    assert len(set(task.requests())) == len(task.requests()) == 192


def test_the_grid_has_every_cell_and_its_controls(tmp_path):
    ask = lambda *more: instruct.cells(instruct.arguments(["--out", str(tmp_path), *more]))
    assert len(ask()) == 1
    cells = ask("--grid", "--seeds", "0..4")
    assert len(cells) == len(set(cells)) == 5 * (2 * 2 * 3 + 3)
    for control in ("shuffled", "page"):
        assert ask("--cell", f"plain:256:0.3:{control}") == [("plain", 256, 0.3, control, 0)]
    assert instruct.labelling("sft", 9, "page", 1) != instruct.labelling("sft", 9, "gold", 1)
    with pytest.raises(ValueError, match="FIRST..LAST"):
        ask("--seeds", "x")
    for wrong in ("plain", "plan:256:0", "sft:256:0:golden"):
        with pytest.raises(ValueError, match="--cell"):
            ask("--cell", wrong)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seeds", "3..1"], "expected seeds from 0, the last not below the first"),
        (["--seeds=-2"], "expected seeds from 0"),
        (["--grid", "--cell", "sft:64:0"], "one cell and --grid all"),
        (["--cell", "sft:64:nan"], "beta of at least 0"),
        (["--cell", "sft:64:inf"], "beta of at least 0"),
    ],
)
def test_what_names_no_cells_is_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        instruct.cells(instruct.arguments(["--out", str(tmp_path), *options]))


def test_quick_stages_are_not_taken_for_whole_ones(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(instruct, "cell", lambda out, *which: made.append(which[-1]))
    monkeypatch.setattr(report, "report", lambda out, rows: out / "report.html")
    call = lambda *options: instruct.main(["--out", str(tmp_path / "runs"), *options])
    call("--quick")
    call("--quick")
    assert made == [instruct.QUICK] * 2
    with pytest.raises(ValueError, match="holds stages of another size .*; give --quick as it was"):
        call()
    assert len(made) == 2


def test_stages_build(tmp_path):
    for made in (
        stages.tuned("a", 0, 10),
        stages.reward("a", "b", 0, 10),
        stages.ppo("a", "b", "c", 0, 3, 0.05),
        stages.ppo("a", "b", None, 0, 3, 0.05),
    ):
        validate.validate(made)
        assert made.length == made.model.context


def test_a_stage_that_was_stopped_is_not_done(tmp_path, monkeypatch, capsys):
    runs = []

    def run(config, folder):
        folder.mkdir(exist_ok=True)
        runs.append(folder)
        return types.SimpleNamespace(stopped=len(runs) == 1)

    monkeypatch.setattr(instruct.sft, "run", run)
    assert instruct.main(["--out", str(tmp_path)]) == 0
    assert "the same command goes on" in capsys.readouterr().out
    base = instruct.tuned(tmp_path, "sft", 0, instruct.QUICK)
    assert runs == [base, base] and instruct.done(base)
    instruct.tuned(tmp_path, "sft", 0, instruct.QUICK)
    assert len(runs) == 2


def test_best_of():
    gold = np.tile([0.0, 1.0, 2.0, 3.0], 3)
    rows = measure.best_of(gold, gold, 3)
    assert [row[0] for row in rows] == [1, 2, 4]
    assert rows[0][2] == pytest.approx(1.5) and rows[-1][2] == pytest.approx(3)


def row(**changes):
    made = {name: 0.5 for name in report.COLUMNS}
    made |= {"arm": "sft", "labels": 1, "beta": 0.0, "control": "", "win_interval": [0.4, 0.6],
             "win_equal_length_interval": [0.3, 0.5],
             "best_of": [[1, 0.0, 0.1, 0.2]], "examples": [["<b>", "x", "y"]], "seed": 0}  # fmt: skip
    return {**made, **changes}


def test_a_reward_model_is_held_against_gold_and_its_labeller():
    gold = np.tile([0.0, 1.0, 2.0, 4.0], 2)
    proxy = np.concatenate([gold[:4], -gold[4:]])
    found = measure.against(gold, proxy, 2)
    assert found["reward_gold"] == pytest.approx(0.5) and len(found["reward_gold_by_gap"]) == 4
    sizes = np.asarray([1, 2, 4, 1, 3, 2])
    assert found["labeller_gold"] == pytest.approx((1 / (1 + np.exp(-sizes))).mean())
    assert measure.against(gold, gold, 2)["reward_gold"] == 1


def test_the_report_is_of_every_cell_in_the_folder(tmp_path):
    (tmp_path / "cells").mkdir()
    for number, made in enumerate((row(seed=1), row(arm="plain"), row(), row(control="gold"))):
        (tmp_path / "cells" / f"{number}.json").write_text(json.dumps(made))
    found = [(r["arm"], r["control"], r["seed"]) for r in instruct.ended(tmp_path)]
    assert found == [("sft", "", 0), ("sft", "", 1), ("sft", "gold", 0), ("plain", "", 0)]


def test_the_report_escapes_and_averages(tmp_path):
    rows = [row(), row(seed=1, gold_after=1.5), row(control="gold"), row(arm="plain", beta=0.3)]
    text = report.report(tmp_path, rows).read_text()
    assert "&lt;b&gt;" in text and "<b>" not in text
    assert "1.000 ± 0.500" in text and "control: gold" in text
    assert json.loads((tmp_path / "report.json").read_text()) == rows
    lines = (tmp_path / "seeds.tsv").read_text().splitlines()
    assert len(lines) == 5 and lines[2].split("\t")[:6] == ["sft", "1", "0.0", "-", "1", "0.5000"]
    pytest.importorskip("matplotlib")
    assert text.count("data:image/png") == 2 and (tmp_path / "curves.png").stat().st_size > 5000
    only = report.report(tmp_path / "", [row(control="random")]).read_text()
    assert only.count("data:image/png") == 1, "no curve without a policy that is no control"


def test_without_the_judge_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    task._analyser.cache_clear()
    with pytest.raises(ValueError, match="demo"):
        task.compound("never asked before")
