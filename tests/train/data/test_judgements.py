"""Answers judged one by one: what KTO learns from them, and which tables are refused."""

import json

import numpy as np
import pytest

from tests.train import aligned
from train import preference
from train.data import judgements, tables

ROWS = [
    {
        "prompt": f"{word} {n % 4}",
        "completion": f"{'good' if n % 3 else 'bad'} {n}",
        "label": n % 3 > 0,
    }
    for n, word in enumerate(aligned.WORDS * 4)
]
KTO = {"preference.loss": "kto"}


def table(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tables.read(str(path))


def opened(folder, rows=ROWS, **changes):
    made = aligned.config("preference", folder, rows, **KTO, **changes)
    return preference._open(made)


def test_labels_are_read_as_they_are_written(tmp_path):
    rows = [
        {"prompt": "a", "completion": str(n), "label": label}
        for n, label in enumerate([True, False, 1, 0, "true", " False ", "1", "0"])
    ]
    found = judgements.read(table(tmp_path, rows), {})
    assert [item.good for item in found] == [True, False] * 4
    assert found[3].prompt == "a" and found[3].answers == ["3"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": 2}, "line 2: the label is 2; expected true or false, 1 or 0"),
        ({"label": "good"}, "the label is 'good'"),
        ({"prompt": " "}, "line 2: the prompt is empty"),
        ({"completion": ""}, "line 2: the answer is empty"),
        ({"completion": "x"}, "line 2 repeats .*line 1 about the same answer"),
        ({"completion": "x", "label": False}, "line 2 contradicts .*line 1"),
    ],
)
def test_a_row_that_says_nothing_is_named(tmp_path, change, words):
    first = {"prompt": "p", "completion": "x", "label": True}
    with pytest.raises(ValueError, match=words):
        judgements.read(table(tmp_path, [first, {**first, "completion": "y", **change}]), {})


def test_a_step_on_them_is_that_of_the_same_judgements_as_pairs(tmp_path):
    """Pairs are a good and a bad answer to each prompt; judged one by one in that order, the same."""
    words = aligned.WORDS
    pairs = [{"prompt": w, "chosen": f"{w} yes", "rejected": f"{w} no"} for w in words]
    single = [
        {"prompt": w, "completion": f"{w} {x}", "label": x == "yes"}
        for w in words
        for x in ("no", "yes")
    ]
    batches = []
    for rows in (pairs, single):
        *_, tokenizer, stream, _ = opened(tmp_path, rows, **{"data.valid_share": 0.0, "batch": 8})
        batches.append(stream.make(list(range(8))))
    for name in batches[0]:
        np.testing.assert_array_equal(batches[0][name], batches[1][name], err_msg=name)


def test_it_learns_which_are_good(tmp_path, capsys):
    made = aligned.config("preference", tmp_path, ROWS, **KTO, steps=30, **{"optim.lr": 1e-2})
    fitted = preference.run(made, tmp_path / "run")
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[0] == pytest.approx(0.5, abs=1e-5) and losses[-1] < 0.45
    assert "answers good" in capsys.readouterr().out and not fitted.stopped


def test_good_answers_alone_are_taken(tmp_path):
    rows = [{**row, "label": True} for row in ROWS]
    *_, stream, _ = opened(tmp_path, rows)
    assert stream.batch(0)["good"].all()
