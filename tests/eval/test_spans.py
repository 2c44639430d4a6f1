"""Answers: SQuAD's normalisation and scores, the best span over windows, the null threshold.

`SCORED` agrees with `torchmetrics.functional.text.squad` 1.9, which follows SQuAD's evaluation script,
wherever that has a gold answer; `NORMAL` is worked out by hand.
"""

import numpy as np
import pytest

from eval import spans

NORMAL = {
    "The  Cat, sat!": "cat sat",
    "a an the": "",
    "U.S. Army": "us army",
    "theatre of a": "theatre of",
    "caf\u00e9\u2019s": "caf\u00e9\u2019s",
    "state-of-the-art": "stateoftheart",
}
SCORED = [  # predicted, golds, exact, f1
    ("the cat", ["Cat."], 1.0, 1.0),
    ("black cat sat", ["cat sat down"], 0.0, 2 / 3),
    ("cat cat", ["cat"], 0.0, 2 / 3),
    ("dog", ["cat", "a dog"], 1.0, 1.0),
    ("U.S. army's state-of-the-art", ["The US armys stateoftheart!", "x"], 1.0, 1.0),
    ("caf\u00e9\u2019s a", ["caf\u00e9s", "caf\u00e9\u2019s"], 1.0, 1.0),
    ("", [], 1.0, 1.0),
    ("cat", [], 0.0, 0.0),
    ("the", ["cat"], 0.0, 0.0),
    ("", ["The", "cat"], 0.0, 0.0),  # SQuAD 2.0 asks for no gold answer that is nothing
    ("", ["The", "!"], 1.0, 1.0),
]


def test_normalisation():
    assert {text: spans.normalize(text) for text in NORMAL} == NORMAL


@pytest.mark.parametrize(("predicted", "golds", "exact", "f1"), SCORED)
def test_scores(predicted, golds, exact, f1):
    assert spans.exact(predicted, golds) == exact
    assert spans.f1(predicted, golds) == pytest.approx(f1)


def brute(starts, ends, first, count, longest):
    """The best span among all, by two loops."""
    every = [
        (starts[first + i] + ends[first + j], i, j)
        for i in range(count)
        for j in range(i, min(i + longest, count))
    ]
    return max(every)


@pytest.mark.parametrize("seed", range(10))
def test_the_best_span_is_the_best(seed):
    rng = np.random.default_rng(seed)
    starts, ends = rng.normal(size=(2, 40))
    got = spans.best_span(starts, ends, 5, 20, longest=4, most=20)
    assert got == pytest.approx(brute(starts, ends, 5, 20, 4))


def test_no_span_without_a_pair_in_order():
    assert spans.best_span(np.array([0.0, 9.0]), np.array([9.0, 0.0]), 0, 2, most=1)[0] == -np.inf


def windows():
    """Two windows of "one two three four", overlapping in "two three", and one of another text."""
    words = [(0, 3), (4, 7), (8, 13), (14, 18)]
    rows = [
        dict(example=0, first=2, offsets=np.array(words[:3])),
        dict(example=0, first=2, offsets=np.array(words[1:])),
        dict(example=1, first=2, offsets=np.array([(0, 5)])),
    ]
    logits = np.full((3, 6, 2), -5.0)
    logits[:, 0] = 1.0, 1.0
    logits[0, 2], logits[0, 3] = (2.0, 0.0), (0.0, 1.0)  # "one two": 3
    logits[1, 3], logits[1, 4] = (3.0, 0.0), (0.0, 2.0)  # "three four": 5
    logits[1, 0] = 0.5, 1.0
    logits[2, 2] = 0.5, 0.0
    return logits, rows, ["one two three four", "alone"]


def test_the_best_window_answers_and_the_least_null_counts():
    found = spans.answers(*windows())
    assert found[0] == {"text": "three four", "score": 5.0, "null": 1.5}
    assert found[1] == {"text": "alone", "score": 0.5, "null": 2.0}


def test_an_answer_must_beat_the_null_score_where_there_may_be_none():
    found = spans.answers(*windows())
    golds = [["three four"], []]
    out = spans.scores(found, golds)
    assert out["exact"] == 1.0 and out["no_answer"] == 1.0 and out["has_answer_f1"] == 1.0
    assert spans.scores(found, golds, threshold=-2.0)["exact"] == 0.5
    assert spans.scores(found, golds, threshold=4.0)["exact"] == 0.5
    assert spans.scores(found, [["three four"], ["alone"]], threshold=9.0)["exact"] == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_best(seed):
    rng = np.random.default_rng(seed)
    found = [dict(text="cat", score=s, null=n) for s, n in rng.normal(size=(20, 2))]
    golds = [["cat"] if rng.random() < 0.5 else [] for _ in found]
    value, threshold = spans.best_threshold(found, golds)
    at = lambda t: spans.scores(found, golds, t)["f1"]
    tried = [at(row["score"] - row["null"] - 1e-9) for row in found] + [at(1e9)]
    assert value == pytest.approx(max(tried)) == at(threshold)


def test_a_threshold_that_gives_every_answer_is_a_number():
    """So that it can be what config.data.threshold says; a window without a span has none to give."""
    found = [{"text": "a", "score": 3.0, "null": 0.0}, {"text": "", "score": -np.inf, "null": 0.0}]
    value, threshold = spans.best_threshold(found, [["a"], []])
    assert value == 1.0 and np.isfinite(threshold)
    assert spans.scores(found, [["a"], []], threshold)["f1"] == value
    found[1].update(text="b", score=4.0)
    value, threshold = spans.best_threshold(
        [*found, {**found[0], "score": -7.0}], [["a"], [], ["a"]]
    )
    assert threshold == -8.0 and value == pytest.approx(2 / 3)
    assert spans.best_threshold(found[1:], [[]]) == (1.0, 4.0)
