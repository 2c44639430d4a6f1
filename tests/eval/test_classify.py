"""What fine-tuned encoders are scored by, where it is more than a metric of `eval.metrics`."""

import numpy as np
import pytest
from seqeval import metrics as theirs

from eval import classify
from models import families
from models.options import Options
from tests.train.data.test_encode import TOKENIZER, examples
from train.data import encode
from train.data.sentences import Frame

TAGS = ("O", "B-X", "I-X", "B-Y", "I-Y")


def test_entities_that_were_cut_off_are_missed():
    """F1 of whole sentences, of which the model read the beginning: as seqeval has it of all tags."""
    rng = np.random.default_rng(0)
    texts = [("cat",) * n for n in (4, 20, 31)] + [("", "cat", "mat")]
    targets = [rng.integers(0, 5, len(words)).tolist() for words in texts]
    targets[1][-1], targets[3][0] = 1, 3
    rows = encode.encode(examples("tokens", texts, targets), TOKENIZER, 12, truncate=True)
    read = [dict(pairs) for pairs in rows.targets]
    assert [len(pairs) for pairs in rows.extra["tags"]] == [4, 20, 31, 3]
    assert list(map(len, read)) == [4, 8, 8, 2]
    found = rng.normal(size=(4, 12, 5))
    for row, pairs in enumerate(read):
        for slot, label in pairs.items():
            found[row, slot, label] += 2.0
    gold = [[TAGS[label] for label in row] for row in targets]
    guess = [
        [TAGS[found[row, slot].argmax()] if slot >= 0 else "O" for slot, _ in pairs]
        for row, pairs in enumerate(rows.extra["tags"])
    ]
    data = {"targets": rows.targets, "labels": TAGS, **rows.extra}
    made = classify.SCORES["tokens"](found, data)
    assert made["f1"] == pytest.approx(theirs.f1_score(gold, guess))
    assert made["recall"] == pytest.approx(theirs.recall_score(gold, guess))
    assert made["precision"] == pytest.approx(theirs.precision_score(gold, guess))
    short = classify.SCORES["tokens"](found, {"targets": rows.targets, "labels": TAGS})
    assert short["recall"] > made["recall"] and short["accuracy"] == made["accuracy"]


@pytest.mark.parametrize(
    ("labels", "entities"),
    [(("O", "S-X", "B-X", "E-X"), True), (("O", "B-X", "I-"), False), (("N", "V"), False)],
)
def test_entities_are_scored_where_all_labels_are_tags_of_them(labels, entities):
    """`names` promises what an evaluation gives, so that a best.metric can be refused before a run."""
    found = np.zeros((1, 3, len(labels)))
    targets = [[(slot, slot % len(labels)) for slot in range(3)]]
    made = classify.SCORES["tokens"](found, {"targets": targets, "labels": labels})
    assert ("f1" in made) == entities
    assert set(made) == set(classify.names("tokens", labels))


@pytest.mark.parametrize("double", [False, True])
def test_a_longformers_question_and_choices_see_the_whole_row(double):
    """As the reference has it: a question without its separators; of choices what follows them."""
    frame = Frame(cls=1, sep=2, pad=0, mask=3, double=double)
    ids = [([7, 8], [9, 4, 5]), ([6], [7])]
    parts = [frame.join(*map(np.int32, pair)) for pair in ids]
    rows = encode.Rows("spans", 12, 0, [[part] for part in parts], [(0, 0)] * 2)
    o = Options.of({**families.row("longformer", "base"), "head": "spans"})
    made = classify.inputs(rows.batch([0, 1]), o, "spans")
    asked = [[1, 1, 1] + [0] * 9, [1, 1] + [0] * 10]
    np.testing.assert_array_equal(made["global_mask"], asked)
    rows = encode.Rows("choice", 12, 0, [parts], [0])
    made = classify.inputs(rows.batch([0]), o, "choice")
    for (_, types), row in zip(parts, made["global_mask"][0], strict=True):
        np.testing.assert_array_equal(row, np.pad(types, (0, 12 - len(types))))
