"""What must hold in alignment and no other test asks: edges of losses, groups, rounds and settings."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from tests.train import aligned, bigrams
from train import ppo
from train.core import (
    advantages,
    config,
    judges,
    kl,
    origin,
    policy,
    preferences,
    rewards,
    rollout,
    rounds,
)
from train.data import prompts
from train.data import tokenizer as tokenizers


def test_a_pair_far_off_has_a_finite_loss():
    assert float(preferences.bradley_terry(-200.0, 200.0)) == pytest.approx(400)


def test_equal_scores_are_wrong():
    better = jnp.triu(jnp.ones((1, 3, 3)), 1)
    assert preferences.ranked(jnp.zeros((1, 3)), better)[2].tolist() == [0]
    assert preferences.ranked(jnp.asarray([[2.0, 1.0, 1.0]]), better)[2].tolist() == [2]


@pytest.mark.parametrize("size", [3, 7])
def test_equal_rewards_teach_exactly_nothing(size):
    """The mean of seven times 0.1 is not 0.1, in single precision."""
    flat = jnp.tile(jnp.float32([0.1, 0.7]), (size, 1)).T.reshape(-1)
    for spread in advantages.SPREADS:
        assert not np.any(advantages.group(flat, size, spread))
    assert not np.any(advantages.leave_one_out(flat, size))


def judged(method, in_reward=True, whitened=False, size=2):
    rng = np.random.default_rng(0)
    mask = np.asarray([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]], np.float32)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    made = {"answer": mask, "old": draw(4, 4), "reference": draw(4, 4), "score": draw(4)}
    held = {"values": draw(4, 4)}
    found = rollout.judge(made, held, method=method, size=size, in_reward=in_reward,
                          whitened=whitened, gamma=1.0, lam=0.95, beta=0.3)  # fmt: skip
    return made, held["values"], *map(np.asarray, found)


@pytest.mark.parametrize("whitened", [False, True])
def test_returns_are_of_unwhitened_advantages(whitened):
    made, values, found, returns = judged("ppo", whitened=whitened)
    mask = made["answer"]
    reward = -0.3 * (made["old"] - made["reference"]) * mask
    reward[np.arange(4), mask.sum(1).astype(int) - 1] += made["score"]
    if whitened:  # the mean stays
        real = reward[mask > 0]
        reward = mask * ((reward - real.mean()) / np.sqrt(real.var(ddof=1) + 1e-8) + real.mean())
    plain = np.zeros((4, 5))
    for t in (3, 2, 1, 0):
        after = values[:, t + 1] * mask[:, t + 1] if t < 3 else 0
        delta = reward[:, t] + after - values[:, t]
        plain[:, t] = (delta + 0.95 * plain[:, t + 1]) * mask[:, t]
    np.testing.assert_allclose(returns, (plain[:, :4] + values) * mask, atol=1e-5)
    real = plain[:, :4][mask > 0]
    want = (plain[:, :4] - real.mean()) / np.sqrt(real.var(ddof=1) + 1e-8) * mask
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_rloo_has_the_summed_kl_in_its_reward():
    made, _, found, _ = judged("rloo")
    total = made["score"] - 0.3 * ((made["old"] - made["reference"]) * made["answer"]).sum(1)
    want = np.stack([total[::2] - total[1::2], total[1::2] - total[::2]], 1).reshape(-1)
    np.testing.assert_allclose(found, want[:, None] * made["answer"], atol=1e-5)
    made, _, found, _ = judged("rloo", in_reward=False)
    assert found[0, 0] == pytest.approx(made["score"][0] - made["score"][1], abs=1e-6)


@pytest.mark.parametrize("in_reward", [False, True])
def test_grpo_divides_by_its_group_s_deviation_and_dr_grpo_does_not(in_reward):
    for method in ("grpo", "dr_grpo"):
        made, _, found, _ = judged(method, in_reward=in_reward)
        apart = ((made["old"] - made["reference"]) * made["answer"]).sum(1)
        total = (made["score"] - 0.3 * in_reward * apart).reshape(2, 2)
        want = total - total.mean(1, keepdims=True)
        if method == "grpo":
            want = want / (total.std(1, ddof=1, keepdims=True) + 1e-4)
        np.testing.assert_allclose(found, want.reshape(-1, 1) * made["answer"], atol=1e-5)


def written():
    """Four answers, of which the first two are the same text to other prompts."""
    mask = np.asarray([[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 0]], np.float32)
    tokens = np.asarray([[1, 5, 6, 7], [2, 5, 6, 7], [3, 5, 0, 0], [4, 8, 9, 0]])
    made = {
        "answer": mask, "old": np.full((4, 3), -1.0), "reference": np.full((4, 3), -1.5),
        "score": np.ones(4), "lengths": mask.sum(1), "ended": np.ones(4), "tokens": tokens,
        "sampled": np.full((4, 3), -1.0),
    }  # fmt: skip
    made["reference"][mask == 0] = 50.0
    return made


def test_kl_is_a_sum_over_an_answer_and_no_pad_is_in_any_mean():
    found = rollout.watched(written(), np.asarray([1.0, np.nan, 3.0, 0.0]), "ppo", 1)
    assert found["kl"] == pytest.approx(0.5 * 9 / 4) and found["kl_per_token"] == pytest.approx(0.5)
    assert found["entropy"] == pytest.approx(1) and found["unscored"] == 0.25
    assert found["reward"] == pytest.approx(4 / 3)


def test_one_answer_to_every_prompt_is_no_variety():
    assert rollout.watched(written(), np.ones(4), "ppo", 1)["distinct"] == 0.75
    assert "no score" in rollout.failing({"unscored": 0.9}, 50.0)[0]


def test_what_is_watched_in_a_step_leaves_padding_out():
    mask = jnp.asarray([[1.0, 1.0, 0.0]])
    batch = {
        "answer": mask,
        "old": jnp.asarray([[-1.0, -1.0, 0.0]]),
        "advantages": jnp.ones((1, 3)),
    }
    now, how = (
        jnp.asarray([[-1.0, -0.5, 9.0]]),
        {"clip": 0.2, "clip_high": 0.0, "surrogate": "clip"},
    )
    found = policy.watch(policy.ratios(now, batch["old"], mask), now, batch, how)
    found = {name: float(s / n) for name, (s, n) in found.items()}
    up = np.exp(0.5)
    want = {
        "ratio": (1 + up) / 2,
        "clipped": 0.5,
        "apart": (up - 1) / 2,
        "moved": 0.0625,
        "entropy": 0.75,
    }
    assert found == pytest.approx(want, rel=1e-5)


def test_the_first_step_s_ratios_are_1_or_the_run_ends():
    o = types.SimpleNamespace(dtype="float32")
    writer = types.SimpleNamespace(model=types.SimpleNamespace(o=o))
    loop = types.SimpleNamespace(setting=types.SimpleNamespace(writer=writer), latest={})
    loop.latest = {"apart": 2e-5, "clipped": 0.0}
    rounds.Rounds.begun(loop)
    for bad in ({"apart": 2e-4}, {"clipped": 0.01}):
        loop.latest = {"apart": 0.0, "clipped": 0.0, **bad}
        with pytest.raises(ValueError, match="not what wrote the answers"):
            rounds.Rounds.begun(loop)


def test_the_loss_divides_by_the_temperature_that_was_sampled_at(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo, "build", lambda o: bigrams.Bigrams())
    task, params, batch, _ = bigrams.policy_task(tmp_path, **{"ppo.temperature": 0.5})
    batch["old"] = bigrams.log_probs(params, batch, 0.5).astype(np.float32)
    _, (_, sums) = task.loss(params, {}, {}, batch, None, task.totals(batch))
    assert float(sums["apart"][0]) < 1e-4 and float(sums["clipped"][0]) == 0


def test_rewards_are_scaled_by_the_fixed_reference_s_answers():
    scores = {"policy": np.asarray([5.0, 5.0]), "reference": np.asarray([1.0, 3.0], np.float32)}
    setting = types.SimpleNamespace(
        same=False, seed=0, size=2, ask=lambda n: (None, None, None),
        writer=lambda params, *_: params, scorer=lambda made, *_: scores[made],
    )  # fmt: skip
    loop = types.SimpleNamespace(setting=setting)
    ask = lambda: rounds.Rounds.plain_scores(loop, scores["policy"], {"reference": "reference"})
    assert rewards.affine(ask()) == (1.0, -2.0)
    setting.same = True
    assert ask() is scores["policy"]


def test_scores_that_are_no_numbers(monkeypatch):
    writer = types.SimpleNamespace(new=2, place=lambda x: x, texts=lambda made: ["a", "b"])
    asked = [prompts.Prompt("p"), prompts.Prompt("q")]
    judge = lambda said: rollout.Scorer(writer, lambda *_: said.pop(0))({}, asked)
    np.testing.assert_array_equal(judge([0.5, None]), np.float32([0.5, np.nan]))
    for bad in ([1.0, float("inf")], [1.0, "good"], [1.0, [2.0]]):
        with pytest.raises(ValueError, match="a reward function gave"):
            judge(bad)
    monkeypatch.setattr(rollout.preference, "scores", lambda *_: jnp.asarray([1.0, jnp.nan]))
    scorer = rollout.Scorer(writer, None, "a model")
    with pytest.raises(ValueError, match="the reward model's score of 1 answers of 2 is nan"):
        scorer({"tokens": jnp.ones((2, 3)), "mask": jnp.ones((2, 3))}, asked)


def test_an_answer_ends_with_its_end_of_text_which_is_trained_and_not_read():
    tokenizer = types.SimpleNamespace(
        vocab=6, eos=2, pad=-1, decode=lambda ids: bytes(ids.tolist()).hex()
    )
    writer = rollout.Writer(bigrams.Bigrams(), tokenizer, {"temperature": 1.0, "new": 4})
    assert writer.settings.fill == writer.settings.eos[0] == 2, "what pads is the end of text"
    out = types.SimpleNamespace(
        sequences=np.asarray([[0, 5, 4, 2, 2, 2], [5, 3, 4, 4, 4, 4]]), lengths=np.asarray([2, 4]),
        stopped=np.asarray([True, False]), sample_log_probs=np.zeros((2, 4)),
    )  # fmt: skip
    writer._sample, writer._turned = (lambda *_, **__: out), (lambda variables, *_: variables)
    made = writer(None, out.sequences[:, :2], np.asarray([[0, 1], [1, 1]]), np.asarray([1, 2]))
    assert made["answer"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert made["mask"].tolist() == [[0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert writer.texts(made) == ["04", "04040404"]


def test_an_answer_ends_where_the_template_ends_a_turn():
    """A base model's end of text need not be what ends a turn: <|im_end|>, <|eot_id|>."""
    words = tokenizers.train("byte", [], 0, ("<end>", "<turn>"), eos="<end>")
    turn = words.raw.token_to_id("<turn>")
    assert rollout.ends(words) == (words.eos,)
    words.chat_template = "{% for m in messages %}{{ m.content }}<turn>{% endfor %}"
    assert rollout.ends(words) == (words.eos, turn)
    words.chat_template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    assert rollout.ends(words) == (words.eos,)
    words.chat_template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(ValueError, match=r"ends a turn with '<\|im_end\|>', which is no token"):
        rollout.ends(words)


def test_k1_is_no_loss(tmp_path):
    made = aligned.config("ppo", tmp_path, [{"prompt": "a"}], **{"kl.estimator": "k1"})
    with pytest.raises(ValueError, match="kl.estimator"):
        ppo.settings(made)
    assert set(kl.ESTIMATORS) > {"k2", "k3"}


def test_the_paper_s_settings():
    made = config.load("configs/ppo.py:instructgpt")
    how = ppo.settings(made)
    own = how["ppo"]
    assert (own["gamma"], own["lam"], own["clip"], own["value"]) == (1.0, 0.95, 0.2, 0.1)
    assert (how["kl"]["beta"], how["mix"]["weight"], made.optim.ema) == (0.02, 27.8, 0.992)
    assert (how["reward"]["missing_eos"], how["reward"]["amount"]) == ("replace", 1.0)
    assert made.batch * own["minibatches"] == 512 and made.batch == 64 and own["epochs"] == 1
    assert made.steps * made.batch // own["epochs"] == 256_000
    for variant in ("tiny", "sort", "instructgpt", "grpo", "rloo"):
        assert config.load(f"configs/ppo.py:{variant}").optim.eps == 1e-5
    for variant in ("tiny", "sort", "grpo", "rloo"):  # to 0 in a straight line
        optim = config.load(f"configs/ppo.py:{variant}").optim
        assert (optim.schedule, optim.end) == ("linear", 0.0)
    assert config.load("configs/reward.py:rankings").optim.lr == 9e-6
    standard = ppo.SECTIONS
    assert (standard["ppo"]["epochs"], standard["kl"]["target"]) == (4, 6.0)
    assert standard["kl"]["horizon"] == 10_000


def test_nets_that_are_read_in_alignment_have_no_dropout(tmp_path, monkeypatch):
    made = aligned.config("ppo", tmp_path, [{"prompt": "a"}], "score", **{"model.drop_resid": 0.1})
    o, tokenizer = origin.options(made), types.SimpleNamespace(hash="x")
    monkeypatch.setattr(origin, "named", lambda init: o)
    monkeypatch.setattr(judges.tasks, "of_model", lambda init, find: tokenizer)
    found = judges.opened({"kind": "model", "checkpoint": "x"}, tokenizer)
    assert o.dropout and not found.o.dropout and found.reader is None
