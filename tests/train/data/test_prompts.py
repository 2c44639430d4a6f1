"""Prompts whose reward compares with a target: one that is missing is said, and never taken for ""."""

import json

import pytest

from train.core import rewards
from train.data import instructions, prompts, tables
from train.data import tokenizer as tokenizers


def read(folder, rows, **data):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prompts.read(tables.read(str(path)), {"data": data})


@pytest.mark.parametrize("kind", rewards.PLAIN)
def test_a_missing_column_of_targets_is_an_error_of_the_rewards_that_compare(tmp_path, kind):
    (found,) = read(tmp_path, [{"prompt": "a", "answer": "b"}])
    assert found.target == "", "a function that asks for none runs as ever"
    with pytest.raises(ValueError, match="no column 'target'.*\ncolumns: prompt, answer"):
        rewards.PLAIN[kind](found.words, "", found.target)


@pytest.mark.parametrize("kind", rewards.PLAIN)
def test_a_row_without_a_target_is_named(tmp_path, kind):
    first, second = read(tmp_path, [{"prompt": "a", "target": "1"}, {"prompt": "b", "target": " "}])
    assert rewards.PLAIN[kind](first.words, "1", first.target) in (0, 1)
    with pytest.raises(ValueError, match="line 2: column 'target' is empty"):
        rewards.PLAIN[kind](second.words, "", second.target)


def test_a_column_that_was_named_must_be_there(tmp_path):
    with pytest.raises(ValueError, match="no column 'tagret'; did you mean .target"):
        read(tmp_path, [{"prompt": "a", "target": "b"}], target="tagret")
    assert read(tmp_path, [{"prompt": "a"}], target="")[0].target == ""


def test_an_empty_target_without_a_place_is_refused_as_well():
    with pytest.raises(ValueError, match="the target is empty"):
        rewards.exact("a", "", "")


def test_a_prompt_that_the_template_refuses_is_named_by_its_row(tmp_path):
    own = tokenizers.train("char", ["ab"], specials=("<s>",), eos="<s>")
    dialogue = instructions.Dialogue(own, "{% for m in messages %}{{ m.content }}{% endfor %}")
    rows = [{"prompt": "a"}, {"prompt": [{"role": "usr", "content": "a"}]}]
    with pytest.raises(ValueError, match="line 2: message 0 of the chat has the role 'usr'"):
        prompts.encode(read(tmp_path, rows), dialogue, 9)


def test_a_reward_that_compares_needs_targets_before_anything_is_trained(tmp_path):
    from tests.train import aligned
    from train import ppo

    rows = [{"prompt": word} for word in aligned.WORDS]
    made = aligned.config(
        "ppo", tmp_path, rows, **{"reward.kind": "exact", "steps": 4, "ppo.new": 8}
    )
    with pytest.raises(ValueError, match="has no column 'target', with which the reward compares"):
        ppo.check(made)
    ppo._open(made, lambda prompt, answer, target: 0.0)  # a function of one's own needs none
