"""Comparisons: pairs, rankings, several labellers, raters; contradictions and repeats."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from scripts.label import store
from train.data import compared, preferences, tables

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


def read(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return preferences.read(tables.read(str(path)), ConfigDict({"data": {}}))


def test_pairs_and_rankings_give_the_same(tmp_path):
    (pair,) = read(tmp_path, [PAIR])
    (ranked,) = read(tmp_path, [{"prompt": "p", "answers": ["b", "a"], "ranks": [2, 1]}])
    assert pair.answers == ranked.answers == ["a", "b"]
    np.testing.assert_array_equal(pair.better, [[0, 1], [0, 0]])
    np.testing.assert_array_equal(pair.better, ranked.better)


def test_ties_make_no_pair(tmp_path):
    row = {"prompt": "p", "answers": ["a", "b", "c", "d"], "ranks": [1, 2, 2, 3]}
    (found,) = read(tmp_path, [row])
    assert found.better.sum() == 5 and found.better[1, 2] == found.better[2, 1] == 0
    assert read(tmp_path, [{**row, "ranks": [1, 1, 1, 1]}]) == []


def test_labellers_may_differ_and_their_agreement_is_the_ceiling(tmp_path):
    rows = [{**PAIR, "labeller": name} for name in "xyz"]
    rows.append({"prompt": "p", "chosen": "b", "rejected": "a", "labeller": "w"})
    (found,) = read(tmp_path, rows)
    assert found.better[0, 1] == 1 and found.agreement == 0.75
    assert found.shared == (3, 6) and preferences.ceiling([found]) == 0.5
    assert np.isnan(preferences.ceiling(read(tmp_path, [PAIR])))


def guessed(prompts: int, people: str) -> list:
    """Rankings, with ties, by people who guess."""
    rng = np.random.default_rng(0)
    return [
        {"prompt": f"p{n}", "answers": list("abcd"), "ranks": ranks.tolist(), "labeller": who}
        for n in range(prompts)
        for who, ranks in zip(people, rng.integers(1, 5, (len(people), 4)), strict=True)
    ]


@pytest.mark.parametrize("people", ["xy", "xyz"])
def test_labellers_who_guess_have_a_ceiling_of_a_half(tmp_path, people):
    """A vote is never compared with a majority that holds it, and a pair that is tied one to one counts."""
    path = tmp_path / "rows.jsonl"
    rows = guessed(300, people)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts, ceiling = preferences.open_parts(ConfigDict({"data": {"train": str(path)}}))
    assert ceiling == pytest.approx(0.5, abs=0.04)
    named = [{**row, "id": row["prompt"]} for row in rows]
    assert ceiling == pytest.approx(store.agreement(named)["share"]), "as the labels' page has it"
    assert all(item.better.any() for item in parts["train"])


def test_one_to_one_is_half_of_the_ceiling_and_no_comparison(tmp_path):
    path = tmp_path / "rows.jsonl"
    back = {"prompt": "q", "chosen": "b", "rejected": "a"}
    said = [{**PAIR, "labeller": "x"}, {**PAIR, "labeller": "y"},
            {**back, "labeller": "x"}, {**back, "chosen": "a", "rejected": "b", "labeller": "y"}]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in said))
    parts, ceiling = preferences.open_parts(ConfigDict({"data": {"train": str(path)}}))
    assert ceiling == 0.5 and [item.prompt for item in parts["train"]] == ["p"]


def test_ties_of_either_are_left_out_of_the_ceiling(tmp_path):
    row = {"prompt": "p", "answers": ["a", "b", "c"]}
    (found,) = read(tmp_path, [{**row, "ranks": [1, 2, 3], "labeller": "x"},
                               {**row, "ranks": [1, 1, 2], "labeller": "y"}])  # fmt: skip
    assert found.shared == (2, 2)


@pytest.mark.parametrize("who", ["", "x"])
def test_a_circle_by_one_labeller_is_refused(tmp_path, who):
    more = {"labeller": who} if who else {}
    rows = [{"prompt": "p", "chosen": x, "rejected": y, **more} for x, y in ("ab", "bc", "ca")]
    with pytest.raises(ValueError, match="contradict each other.*the prompt 'p'") as error:
        read(tmp_path, rows)
    assert all(f"line {n}" in str(error.value) for n in (1, 2, 3))
    assert all(f"{x!r} over {y!r}" in str(error.value) for x, y in ("ab", "bc", "ca"))
    assert ("by 'x'" in str(error.value)) == bool(who)
    for number, row in enumerate(rows):
        row["labeller"] = f"{number}"
    assert read(tmp_path, rows), "several people may go round in a circle"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([PAIR, PAIR], "line 2 repeats what .* line 1"),
        ([PAIR, {**PAIR, "chosen": "b", "rejected": "a"}], "line 2 contradicts what .* line 1"),
        ([{**PAIR, "labeller": "x"}] * 2, "repeats what .* by 'x'"),
        ([{**PAIR, "prompt": " "}], "the prompt is empty"),
        ([{**PAIR, "chosen": ""}], "an answer is empty"),
        ([{**PAIR, "chosen": "b"}], "the same text"),
        ([{"prompt": "p", "answers": ["a"], "ranks": [1]}], "expected 2 to 9 texts"),
        ([{"prompt": "p", "answers": ["a", "b"], "ranks": [1]}], "2 answers and ranks"),
        ([{"prompt": "p", "answers": ["a", "b"], "ranks": [1, None]}], "a whole number"),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, words):
    with pytest.raises(ValueError, match=words):
        read(tmp_path, rows)


def test_raters_decide_and_texts_stand_on_one_side():
    config = ConfigDict({"data": {"train": "vader-amazon", "valid_share": 0.2, "rounds": 2}})
    parts, ceiling = preferences.open_parts(config)
    sides = [{text for item in parts[part] for text in item.answers} for part in ("train", "valid")]
    assert not sides[0] & sides[1] and len(parts["valid"]) > 300
    assert 0.5 < ceiling < 1 and ceiling == preferences.majority(parts["valid"])
    assert all(item.agreement > 0.5 for item in parts["train"])
    again, _ = preferences.open_parts(config)
    assert [item.answers for item in again["train"]] == [item.answers for item in parts["train"]]


def test_the_better_text_is_what_more_raters_placed_higher():
    rows = [("low", [0, 1, -1]), ("high", [2, 0, 3])]
    (found,) = preferences.rated(rows, 3, np.random.default_rng(0))
    winner = found.answers[int(np.argwhere(found.better)[0, 0])]
    assert winner == "high" and found.agreement == pytest.approx(7 / 8)


def test_prompts_with_fewer_answers_are_filled_up():
    two = preferences.Comparison("p", ["a", "b"], np.asarray([[0, 1], [0, 0]]))
    three = preferences.Comparison("q", ["a", "b", "c"], np.triu(np.ones((3, 3)), 1))
    row = (np.arange(1, 4), np.zeros(3))
    batch = compared.ranked([[row] * 2, [row] * 3], [two, three], 5, 0)([0, 1])
    assert batch["tokens"].shape == (2, 3, 5) and batch["mask"][0, 2].tolist() == [1, 0, 0, 0, 0]
    assert batch["better"].sum((1, 2)).tolist() == [1, 3]


def test_a_comparison_that_does_not_fit_is_left_out_whole():
    item = preferences.Comparison("p", ["a", "b"], np.asarray([[0, 1], [0, 0]]))
    rows = [[(np.arange(3), np.ones(3)), (np.arange(9), np.ones(9))]]
    with pytest.raises(ValueError, match="1 of 1 comparisons"):
        compared.fitting(rows, [item], 5, False)
    assert compared.fitting(rows, [item], 5, True) == ([], [], 1)


def test_mismatched_pairs_take_the_next_row_s_answer():
    prompts = [np.asarray([1, 2]), np.asarray([3])]
    rows = [
        ((np.asarray([1, 2, 7, 9]), np.asarray([0, 0, 1, 1])), 0, True),
        ((np.asarray([3, 8, 9]), np.asarray([0, 1, 1])), 1, False),
    ]
    batch = compared.judged(rows, prompts, 5, 0)([0, 1])
    assert batch["tokens"][:, 1].tolist() == [[1, 2, 8, 9, 0], [3, 7, 9, 0, 0]]
    assert batch["weights"][:, 1].tolist() == [[0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]
    with pytest.raises(ValueError, match="batch above 1"):
        compared.judged(rows, prompts, 5, 0)([0])


def test_a_fresh_tokenizer_is_trained_on_prompts_too():
    chat = [{"role": "user", "content": "why"}, {"role": "assistant", "tool_calls": []}]
    found = [
        preferences.Comparison("how", ["b", "a"], np.eye(2)),
        preferences.Comparison(chat, ["a", "c"], np.eye(2)),
    ]
    assert compared.texts(found) == ["a", "b", "c", "how", "why"]
