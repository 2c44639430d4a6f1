"""Examples out of tables: labels, splits without repeated texts, and every mistake by its row."""

import pytest
from ml_collections import ConfigDict

from train.data import labelled
from train.data.tables import Table


def table(*rows):
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table("t.csv", columns, list(rows), list(range(2, 2 + len(rows))), "line")


def config(**data):
    return ConfigDict(dict(data=data))


def test_labels_are_found_and_sorted():
    rows = [
        {"text": "a", "label": "no"},
        {"text": "b", "label": "yes"},
        {"text": "c", "label": "no"},
    ]
    found = labelled.examples(table(*rows), config())
    assert found.labels == ("no", "yes") and found.targets == [0, 1, 0]
    numbers = [{"text": "a", "label": label} for label in ("10", "9", "-1")]
    assert labelled.examples(table(*numbers), config()).labels == ("-1", "9", "10")
    given = labelled.examples(table(*rows), config(labels=("yes", "no")))
    assert given.targets == [1, 0, 1]


def test_candidates_of_a_query_are_ranked_by_their_label():
    rows = [{"q": q, "text": f"t{n}", "label": n % 2} for n, q in enumerate("aabbb")]
    asked = config(rank="q")
    found = labelled.ranking(labelled.examples(table(*rows), asked), asked)
    assert found == {"groups": list("aabbb"), "relevant": [False, True, False, True, False]}
    assert labelled.groups(table(*rows), asked) == list("aabbb")  # on one side of a split
    assert labelled.ranking(labelled.examples(table(*rows), config()), config()) == {}
    number = config(rank="q", task="regress")
    assert labelled.ranking(labelled.examples(table(*rows), number), number) == found
    with pytest.raises(ValueError, match="t.csv, line 2 and on: no row is relevant"):
        labelled.ranking(labelled.examples(table(*rows[::2]), asked, (0, 1)), asked)
    rows[0]["label"] = 7
    with pytest.raises(ValueError, match="the task is classify with 3 labels"):
        labelled.ranking(labelled.examples(table(*rows), asked), asked)


def test_every_task_reads_its_columns():
    pair = config(pair="b", task="regress", label="score")
    found = labelled.examples(table({"text": "x", "b": "y", "score": "2.5"}), pair)
    assert found.texts == [("x", "y")] and found.targets == [2.5]
    tags = table({"words": "a b", "tags": ["O", "B-X"]})
    found = labelled.examples(tags, config(task="tokens"))
    assert (
        found.texts == [("a", "b")] and found.labels == ("B-X", "O") and found.targets == [[1, 0]]
    )
    choice = table({"text": "q", "choices": ["a", "b"], "label": 1})
    found = labelled.examples(choice, config(task="choice"))
    assert found.texts == [("q", ("a", "b"))] and found.targets == [1]
    answers = {"text": ["cd"], "answer_start": [3]}
    span = table({"question": "q", "context": "ab cd", "answers": answers})
    found = labelled.examples(span, config(task="spans"))
    assert found.texts == [("q", "ab cd")] and found.targets == [((3, 5),)]
    embed = config(task="embed", pair="p", negative="n")
    found = labelled.examples(table({"text": "q", "p": "yes", "n": "no"}), embed)
    assert found.texts == [("q", "yes", "no")]


@pytest.mark.parametrize(
    ("row", "data", "words"),
    [
        ({"text": "a", "label": "mabe"}, dict(labels=("maybe", "no")), 'did you mean "maybe"'),
        ({"text": "a", "label": "x"}, dict(task="regress"), "line 2: column 'label' is 'x'"),
        ({"text": "a", "label": "x"}, dict(task="clasify"), 'did you mean "classify"'),
        ({"words": "a b", "tags": "O"}, dict(task="tokens"), "2 words in column 'words' and 1 tags"),
        ({"words": "a", "tags": "B-Y"}, dict(task="tokens", labels=("O", "B-X")), "the tag 'B-Y'"),
        ({"text": "q", "choices": ["a"], "label": 1}, dict(task="choice"), "right choice is 1"),
        ({"text": "q"}, dict(task="embed"), "data.pair names no column"),
        (
            {"question": "q", "context": "ab", "answers": {"text": ["b"], "answer_start": [0]}},
            dict(task="spans"),
            "'b' does not stand at character 0",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named(row, data, words):
    with pytest.raises(ValueError, match=words):
        labelled.examples(table(row), config(**data))


def test_texts_that_differ_in_case_and_signs_stay_on_one_side():
    rows = [{"text": f"{t}{mark}", "label": "x"} for t in range(200) for mark in ("", "!", " ?")]
    keys = labelled.groups(table(*rows), config())
    cut = labelled.split(keys, {"valid": 0.1, "test": 0.2})
    sizes = {part: len(numbers) for part, numbers in cut.items()}
    assert sum(sizes.values()) == 600 and sorted(sum(cut.values(), [])) == list(range(600))
    assert abs(sizes["test"] - 120) <= 2 and abs(sizes["valid"] - 60) <= 2
    sides = {part: {keys[n] for n in numbers} for part, numbers in cut.items()}
    assert not sides["train"] & sides["test"] and not sides["train"] & sides["valid"]
    assert not sides["valid"] & sides["test"]


def test_a_split_does_not_depend_on_the_order_of_rows():
    keys = [str(n) for n in range(50)]
    first = labelled.split(keys, {"test": 0.2})["test"]
    again = labelled.split(keys[::-1], {"test": 0.2})["test"]
    assert {keys[n] for n in first} == {keys[::-1][n] for n in again}


def test_the_sentiment_split():
    """10,043 clear snippets, a fifth held out for the test and a tenth of the whole for choosing."""
    data = dict(train="vader-movies", valid_share=0.1, test_share=0.2, task="classify")
    parts, counts = labelled.open_parts(config(**data))
    assert counts == {"train": 7030, "valid": 1004, "test": 2009, "repeated": counts["repeated"]}
    sides = [{labelled.plain(row["text"]) for row in part.rows} for part in parts.values()]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    share = sum(row["label"] == "positive" for row in parts["test"].rows) / 2009
    assert 0.46 < share < 0.54


def test_a_group_column_is_kept_together():
    rows = [{"text": str(n), "label": "x", "film": f"f{n % 20}"} for n in range(100)]
    keys = labelled.groups(table(*rows), config(group="film"))
    cut = labelled.split(keys, {"test": 0.2})
    assert not {keys[n] for n in cut["test"]} & {keys[n] for n in cut["train"]}


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="leave nothing to train on"):
        labelled.open_parts(config(train="vader-movies", test_share=1.0))
    with pytest.raises(ValueError, match="give one of them"):
        labelled.open_parts(config(train="vader-movies", test="x.csv", test_share=0.1))
    rows = "vader-movies"
    for shares in (
        dict(valid_share=-0.1),
        dict(test_share=float("nan")),
        dict(valid_share=1.5, test_share=-1.0),
    ):
        with pytest.raises(ValueError, match="_share is .*; expected 0 <= x < 1"):
            labelled.open_parts(config(train=rows, **shares))
    with pytest.raises(ValueError, match="is no row"):
        labelled.split(["a", "b"], {"test": 0.1})
