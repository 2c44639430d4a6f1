"""Entities and their F1 against seqeval, in its default mode."""

import numpy as np
import pytest
from seqeval import metrics as theirs
from seqeval.metrics.sequence_labeling import get_entities

from eval import entities

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-X-Y", "I-X-Y")
ENDED = (*TAGS, "S-PER", "E-PER", "S-LOC", "E-LOC", "S-X-Y", "E-X-Y")


def sentences(seed, count=30):
    rng = np.random.default_rng(seed)
    tags = (TAGS, ENDED)[seed % 2]
    lengths = rng.integers(1, 12, count)
    gold = [[tags[i] for i in rng.integers(0, len(tags), n)] for n in lengths]
    keep = lambda tag: tag if rng.random() < 0.7 else tags[rng.integers(0, len(tags))]
    return [[keep(tag) for tag in row] for row in gold], gold


@pytest.mark.parametrize("seed", range(10))
def test_scores(seed):
    ours, gold = sentences(seed)
    found = entities.scores(ours, gold)
    assert found["f1"] == pytest.approx(theirs.f1_score(gold, ours))
    assert found["precision"] == pytest.approx(theirs.precision_score(gold, ours))
    assert found["recall"] == pytest.approx(theirs.recall_score(gold, ours))
    report = theirs.classification_report(gold, ours, output_dict=True, zero_division=0)
    for kind in ("PER", "LOC", "X-Y"):
        assert found[f"f1/{kind}"] == pytest.approx(report[kind]["f1-score"])


@pytest.mark.parametrize("seed", range(5))
def test_entities(seed):
    for row in sentences(seed)[1]:
        assert entities.entities(row) == set(get_entities(row))


def test_what_cannot_be_scored():
    with pytest.raises(ValueError, match="sentence 0 has 2 tags and 1 predictions"):
        entities.scores([["O"]], [["O", "O"]])
    for tag in ("PER", "I-", "B", "-", "L-PER"):
        with pytest.raises(ValueError, match=f"tag 1 is '{tag}'"):
            entities.entities(["O", tag])
        assert not entities.tagged(["O", "B-PER", tag])
    assert entities.tagged(["O", *ENDED]) and entities.tagged([])
    assert entities.scores([["O"]], [["O"]])["f1"] == 0.0
