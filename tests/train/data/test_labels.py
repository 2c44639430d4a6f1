"""Labels as tables spell them: their order, and what is refused by its row."""

import os
import subprocess
import sys

import pytest

from tests.train.data.test_labelled import config, table
from train.data import labelled, labels


def rows(*found):
    return table(*({"text": f"t{n}", "label": label} for n, label in enumerate(found)))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (("pos", "", "neg"), "line 3: column 'label' is ''; expected a label"),
        (("pos", "pos "), "line 3: column 'label' is 'pos '"),
        ((1, 0, "1"), "line 4: column 'label' is '1', 1 in a row before; expected one type"),
    ],
)
def test_what_makes_two_labels_of_one_is_refused(found, words):
    with pytest.raises(ValueError, match=words):
        labelled.examples(rows(*found), config())


def test_the_order_is_of_values_and_then_of_spellings():
    assert labels.ordered(["10", "2", "02", "-1"]) == ("-1", "02", "2", "10")
    assert labels.ordered(["--5", "1"]) == ("--5", "1")
    assert labels.ordered([3, 1]) == (1, 3)
    assert labels.ordered([False, True]) == (False, True)
    assert labels.ordered(["9" * 5000, "1"]) == ("1", "9" * 5000)


def test_the_order_is_that_of_every_process():
    """Sets of text have another order in each."""
    code = "from train.data import labels; print(labels.ordered(['01', '1', '001', '2']))"
    made = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in "1234"
    }  # fmt: skip
    assert made == {"('001', '01', '1', '2')\n"}


def test_a_label_that_the_config_has_twice_is_refused():
    with pytest.raises(ValueError, match="'x' twice; expected each label once"):
        labelled.examples(rows("x", "y"), config(labels=("x", "x", "y")))


def test_tags_are_text():
    found = labelled.examples(
        table({"words": ["a", 3], "tags": [0, 1]}), config(task="tokens", labels=(0, 1))
    )
    assert found.labels == ("0", "1") and found.targets == [[0, 1]] and found.texts == [("a", "3")]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"words": ["a"], "tags": [None]},
            "line 2: column 'tags' has None in its list; expected str",
        ),
        ({"words": [None], "tags": ["O"]}, "line 2: column 'words' has None in its list"),
        ({"words": ["a"], "tags": ["O "]}, "line 2: column 'tags' has the tag 'O '"),
    ],
)
def test_what_is_no_tag_is_named(row, words):
    with pytest.raises(ValueError, match=words):
        labelled.examples(table(row), config(task="tokens"))


@pytest.mark.parametrize(
    ("texts", "starts", "words"),
    [
        (["abc", "def"], [0], "has 2 in text and 1 in answer_start"),
        (["abc"], ["0"], "has the answer_start '0'; expected a whole number"),
        (["abc"], [0.0], "has the answer_start 0.0"),
        ([None], [0], "has the text None; expected words of the context"),
        ([""], [0], "has the text ''"),
        (["ab"], [-7], "has the answer_start -7; expected a whole number of at least 0"),
    ],
)
def test_answers_that_are_none_are_named_by_their_row(texts, starts, words):
    answers = {"text": texts, "answer_start": starts}
    row = {"question": "q", "context": "abc def", "answers": answers}
    with pytest.raises(ValueError, match="line 2: column 'answers' " + words):
        labelled.examples(table(row), config(task="spans"))
