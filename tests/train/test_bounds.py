"""Options of the alignment loops that are out of range, or that would do nothing, are named."""

import numpy as np
import pytest

from tests.train import aligned
from train import ppo, preference, reward
from train.core import bestof, rewards, rollout

PROMPTS = [{"prompt": word} for word in aligned.WORDS]
PAIRS = [{"prompt": word, "chosen": "good", "rejected": "bad"} for word in aligned.WORDS]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kl.beta": -1.0}, "config.kl.beta is -1.0; expected at least 0"),
        ({"mix.weight": -1.0}, "config.mix.weight is -1.0"),
        ({"ppo.value": -1.0}, "config.ppo.value is -1.0"),
        ({"ppo.clip": 2.0}, "config.ppo.clip is 2.0; expected at least 0, at most 1"),
        ({"ppo.lam": 2.0}, "config.ppo.lam is 2.0"),
        ({"ppo.gamma": float("nan")}, "config.ppo.gamma is nan"),
        ({"ppo.dual": 0.5}, "config.ppo.dual is 0.5"),
        ({"kl.controller": "adaptive", "kl.target": 0.0}, "config.kl.target is 0.0"),
        ({"kl.controller": "adaptive", "kl.horizon": 0.0}, "config.kl.horizon is 0.0"),
        ({"kl.controller": "adaptive", "kl.place": "loss"}, "kl.place='loss' has a fixed one"),
        ({"ppo.method": "best", "kl.beta": 0.05}, "ppo.method='best' takes the answer"),
        ({"ppo.method": "best", "kl.beta": 0.0, "ppo.surrogate": "cispo"}, "has none"),
        ({"ppo.method": "grpo", "reward.whiten": True}, "reward.whiten is PPO's"),
        ({"mix.source": "text.txt"}, "mix.weight is 0"),
    ],
)
def test_of_policies(tmp_path, changes, words):
    made = aligned.config("ppo", tmp_path, PROMPTS, **{"reward.kind": "letters", **changes})
    with pytest.raises(ValueError, match="config") as error:
        ppo.settings(made)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "kto", "mean": "tokens"}, "mean='tokens' has no part in the loss kto"),
        ({"loss": "kto", "sft": 0.5}, "sft=0.5 has no part in the loss kto"),
        ({"loss": "dpo", "wrong": 0.1}, "wrong=0.1 has no part in the loss dpo"),
        ({"loss": "ipo", "good": 2.0}, "good=2.0 has no part in the loss ipo"),
        ({"sft": -1.0}, "config.preference.sft is -1.0"),
    ],
)
def test_of_comparisons(tmp_path, changes, words):
    changes = {f"preference.{name}": x for name, x in changes.items()}
    with pytest.raises(ValueError, match="preference") as error:
        preference.settings(aligned.config("preference", tmp_path, PAIRS, **changes))
    assert words in str(error.value)


def test_what_takes_part_is_taken(tmp_path):
    for loss, field, value in (("kto", "good", 2.0), ("cdpo", "wrong", 0.1), ("ipo", "sft", 0.5)):
        changes = {"preference.loss": loss, f"preference.{field}": value}
        made = preference.settings(aligned.config("preference", tmp_path, PAIRS, **changes))
        assert made[field] == value


def test_of_reward_models(tmp_path):
    made = aligned.config("reward", tmp_path, PAIRS, "score", **{"reward.centre": -1.0})
    with pytest.raises(ValueError, match="config.reward.centre is -1.0; expected at least 0"):
        reward.check(made)


def test_an_answer_without_a_score_has_none_where_it_does_not_end():
    """Fact: what cannot be scored is left out, whatever the rule for missing ends."""
    raw, ended = np.array([np.nan, 1.0, 2.0, np.nan]), np.array([False, True, False, True])
    for rule, cut in (("replace", -1.0), ("subtract", 1.0), ("none", 2.0)):
        found = rewards.missing_eos(raw, ended, rule, 1.0)
        np.testing.assert_array_equal(found, np.float32([np.nan, 1.0, cut, np.nan]))


def test_the_best_is_the_best_by_the_score_alone():
    answer = np.ones((4, 2), np.float32)
    made = {
        "answer": answer, "old": np.array([[9.0, 9], [0, 0], [0, 0], [0, 0]], np.float32),
        "reference": np.zeros((4, 2), np.float32), "score": np.float32([2.0, 1.5, 0, np.nan]),
    }  # fmt: skip
    found, _ = rollout.judge(
        made, {"values": 0 * answer}, method="best", size=4, in_reward=True, whitened=False,
        gamma=1.0, lam=1.0, beta=0.05,
    )  # fmt: skip
    assert found[:, 0].tolist() == [1, 0, 0, 0]


def test_the_best_of_equal_proxies_is_any_of_them():
    gold = [3.0, 1.0, 5.0]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        proxy = np.array([1.0, 0.0, 1.0])[order]
        assert bestof.expected(proxy, np.array(gold)[order], 3) == pytest.approx(4.0)
        assert bestof.expected(proxy, np.array(gold)[order], 1) == pytest.approx(3.0)


def test_scores_that_rounding_tells_apart_keep_their_scale():
    assert rewards.affine([0.1, 0.1000001])[0] == 1.0
    assert rewards.affine([0.1, 0.11])[0] == pytest.approx(200.0)


@pytest.mark.parametrize(
    ("answer", "target", "right"),
    [
        ("1,2", "12", 0), ("1,2", "2", 1), ("10-3", "3", 1), ("it is -3", "-3", 1),
        ("x = -3.5", "-3.5", 1), ("1,234,567", "1234567", 1), ("1,200.5", "1200.5", 1), ("", "3", 0),
    ],
)  # fmt: skip
def test_the_last_number(answer, target, right):
    assert rewards.last_number("", answer, target) == right
