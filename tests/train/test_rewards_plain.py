"""Rewards that are plain functions: which numbers are equal, what is no reward, which groups teach nothing."""

import json

import numpy as np
import pytest

from tests.train import aligned
from train import reward, sft
from train.core import rewards, rollout


@pytest.mark.parametrize(
    ("answer", "target", "same"),
    [
        ("so it is .5", "0.5", True),
        ("so it is .5", "5", False),
        ("-.25", "-0.250", True),
        ("\u22125", "5", False),
        ("\u22125", "-5", True),
        ("it ends.5", "5", True),
        ("4.", "4", True),
        ("9007199254740993", "9007199254740992", False),
        ("9" * 400, "8" * 400, False),
        ("1,000.0", "1000", True),
    ],
)
def test_numbers_are_equal_by_all_of_their_digits(answer, target, same):
    assert rewards.last_number("", answer, target) == same


@pytest.mark.parametrize("said", ["0.5", "nan", b"1", "yes"])
def test_a_text_is_no_reward(said):
    with pytest.raises(ValueError, match=f"gave no number: {said!r}"):
        rewards.plain([1.0, said])
    np.testing.assert_array_equal(
        rewards.plain([True, None, 2, np.float64(0.5)]), [1, np.nan, 2, 0.5]
    )


def test_a_group_is_flat_by_the_answers_that_have_a_score():
    raw = np.float32([1, 1, np.nan, 1, 0, np.nan, np.nan, 1, *[np.nan] * 4, -2, -2, -2, np.nan])
    mask = np.ones((16, 2), np.float32)
    made = {"answer": mask, "old": mask, "reference": mask, "sampled": mask, "score": raw}
    made |= {"lengths": mask.sum(-1), "ended": mask[:, 0], "tokens": np.zeros((16, 4), np.int32)}
    assert rollout.watched(made, raw, "grpo", 4)["flat_groups"] == 0.75


def test_a_held_out_part_that_is_all_left_out_is_said_at_once(tmp_path):
    made = aligned.config(
        "sft",
        tmp_path,
        [{"prompt": "a", "completion": "b"}] * 8,
        **{"data.valid_share": 0.0, "data.truncate": True},
    ).unlock()
    held = tmp_path / "valid.jsonl"
    held.write_text(json.dumps({"prompt": "x" * 30, "completion": "y"}) + "\n")
    made.data.valid = str(held)
    with pytest.raises(ValueError, match="no row of the valid part is left"):
        sft._open(made.lock())


@pytest.mark.parametrize("message", ["hi", {"role": "user", "content": ["a"]}, {"content": "a"}])
def test_a_malformed_chat_is_told_also_where_a_tokenizer_learns_from_it(tmp_path, message):
    rows = [{"prompt": [message], "chosen": "good", "rejected": "bad"}] * 1
    made = aligned.config("reward", tmp_path, rows, "score", **{"data.valid_share": 0.0}).unlock()
    made.data.update(tokenizer="word", template="turns")
    with pytest.raises(ValueError, match="no role|cannot take these messages"):
        reward._open(made.lock())
