"""Every loss of the alignment loops: row by row it is the batch, padding is nothing, and by hand it is itself."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from eval import preference as scoring
from tests.train import aligned, bigrams
from train import ppo, preference, reward
from train.core import preferences


@pytest.fixture(autouse=True)
def model(monkeypatch):
    for loop in (ppo, preference, reward):
        monkeypatch.setattr(loop, "build", lambda o: bigrams.Bigrams())


def wider(batch, side=2):
    """The batch with columns of rubbish before the prompts, and rubbish where answers have ended."""
    made = dict(batch)
    for name, fill in (("tokens", 5), ("mask", 0)):
        made[name] = np.pad(batch[name], ((0, 0), (side, 0)), constant_values=fill)
    for name in ("old", "reference", "values", "returns", "advantages"):
        made[name] = np.where(batch["answer"] > 0, batch[name], 9.0).astype(np.float32)
    if "mix_tokens" in made:
        for name in ("mix_tokens", "mix_targets", "mix_weights"):
            made[name] = np.pad(batch[name], ((0, 0), (0, 3)))
    return made


CASES = {
    "ppo": {"ppo.method": "ppo", "ppo.temperature": 0.7},
    "ptx": {"ppo.method": "ppo", "mix.weight": 27.8, "mix.source": "x"},
    "dual": {"ppo.method": "ppo", "ppo.clip_high": 0.28, "ppo.dual": 1.1},
    "grpo": {"ppo.method": "grpo", "kl.place": "loss", "kl.beta": 0.04},
    "grpo k2": {"ppo.method": "grpo", "kl.place": "loss", "kl.beta": 0.04, "kl.estimator": "k2"},
    "dapo": {"ppo.method": "grpo", "ppo.aggregate": "tokens", "ppo.clip_high": 0.28},
    "dr_grpo": {"ppo.method": "dr_grpo"},
    "gspo": {"ppo.method": "grpo", "ppo.ratio": "sequence", "ppo.clip": 3e-4, "ppo.clip_high": 4e-4},
    "cispo": {"ppo.method": "grpo", "ppo.surrogate": "cispo", "ppo.cap": 1.1, "ppo.aggregate": "tokens"},
    "sums": {"ppo.method": "grpo", "ppo.aggregate": "sums"},
    "rloo": {"ppo.method": "rloo"},
    "best": {"ppo.method": "best"},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_of_a_policy(tmp_path, name):
    task, params, batch, how = bigrams.policy_task(tmp_path, **CASES[name])
    found = bigrams.invariant(task, params, batch, wider(batch), tolerance=2e-5)
    assert found == pytest.approx(by_hand(params, batch, how, CASES[name]), rel=1e-4, abs=1e-5)


def by_hand(params, batch, how, given) -> float:
    """The loss of a policy in double precision, from the papers' formulas alone."""
    ppo_, mask = how["ppo"], batch["answer"].astype(np.float64)
    a, old = batch["advantages"].astype(np.float64), batch["old"]
    now = bigrams.log_probs(params, batch, ppo_["temperature"])
    apart, lengths = (now - old) * mask, mask.sum(1, keepdims=True)
    ratio = np.exp(apart)
    if ppo_["ratio"] == "sequence":
        ratio = np.broadcast_to(np.exp(apart.sum(1, keepdims=True) / lengths), mask.shape)
    if ppo_["method"] == "rloo":
        ratio = np.broadcast_to(np.exp(apart.sum(1, keepdims=True)), mask.shape)
    other = np.clip(ratio, 1 - ppo_["clip"], 1 + (ppo_["clip_high"] or ppo_["clip"]))
    each = np.maximum(-a * ratio, -a * other)
    if ppo_["dual"]:
        each = np.where(a < 0, np.minimum(each, -ppo_["dual"] * a), each)
    if ppo_["surrogate"] == "cispo":
        each = -np.minimum(ratio, ppo_["cap"]) * a * now
    if ppo_["method"] == "best":
        each = -a * now
    if how["kl"]["place"] == "loss":
        d = now - batch["reference"]
        each = each + how["kl"]["beta"] * (
            d**2 / 2 if how["kl"]["estimator"] == "k2" else np.exp(-d) - 1 + d
        )
    kind = {"grpo": "sequences", "dr_grpo": "fixed", "rloo": "sequences"}
    kind = given.get("ppo.aggregate", kind.get(ppo_["method"], "tokens"))
    each = each * mask
    loss = {
        "tokens": each.sum() / mask.sum(),
        "sequences": (each.sum(1, keepdims=True) / lengths).mean(),
        "fixed": each.sum() / (len(mask) * bigrams.NEW),
        "sums": each.sum() / len(mask),
    }[kind]
    if ppo_["method"] == "ppo":
        said = np.asarray(params["value"]["u"], np.float64)[batch["tokens"]][:, -5:-1, 0]
        near = np.clip(said, batch["values"] - 0.2, batch["values"] + 0.2)
        square = np.maximum((said - batch["returns"]) ** 2, (near - batch["returns"]) ** 2)
        loss += 0.1 * 0.5 * (square * mask).sum() / mask.sum()
    if how["mix"]["weight"]:
        logits = np.asarray(params["policy"]["w"], np.float64)[batch["mix_tokens"]]
        nats = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(
            logits, batch["mix_targets"][..., None], -1
        )[..., 0]  # fmt: skip
        weights = batch["mix_weights"]
        loss += how["mix"]["weight"] * (nats * weights).sum() / weights.sum()
    return float(loss)


def pairs(loss: str, **more):
    """(task, parameters, batch of 8 ragged pairs, frozen) of `train.preference` on bigrams."""
    config = aligned.config(
        "preference", more.pop("folder"), [{"prompt": "a", "chosen": "b", "rejected": "c"}],
        **{"preference.loss": loss, **{f"preference.{k}": x for k, x in more.items()}},
    )  # fmt: skip
    rng = np.random.default_rng(1)
    params, frozen = ({"w": jnp.asarray(rng.normal(size=(7, 7)), jnp.float32)} for _ in range(2))
    stream = types.SimpleNamespace(batch=None, fingerprint={})
    o = types.SimpleNamespace(dropout=False)
    task = preference.make_task(config, o, None, stream, None, frozen)
    lengths, begin = rng.integers(3, 7, (8, 2)), rng.integers(1, 3, (8, 2))
    slots = np.arange(6)
    real = slots < lengths[..., None]
    batch = {
        "tokens": rng.integers(7, size=(8, 2, 6)).astype(np.int32),
        "mask": real.astype(np.int32),
        "weights": (real & (slots >= begin[..., None])).astype(np.float32),
    }
    if loss == "kto":
        batch["good"] = rng.random(8) < 0.5
    return task, params, batch, frozen


@pytest.mark.parametrize("mean", preferences.MEANS)
@pytest.mark.parametrize("loss", [*preferences.LOSSES, "kto"])
def test_of_preferences(tmp_path, loss, mean):
    if loss == "kto" and mean == "tokens":
        mean = "none"
    sft = 0.5 if mean == "tokens" else 0.0
    wrong = 0.1 if loss in ("cdpo", "robust", "exo") else 0.0
    task, params, batch, frozen = pairs(loss, folder=tmp_path, mean=mean, sft=sft, wrong=wrong)
    padded = {n: np.pad(x, ((0, 0), (0, 0), (0, 3))) if x.ndim == 3 else x
              for n, x in batch.items()}  # fmt: skip
    found = bigrams.invariant(task, params, batch, padded, frozen, tolerance=5e-5)
    assert np.isfinite(found)


def test_the_chosen_s_likelihood_is_watched_and_may_be_added(tmp_path):
    found = {}
    for sft in (0.0, 0.5):
        task, params, batch, frozen = pairs("dpo", folder=tmp_path, sft=sft)
        found[sft], (_, sums) = task.loss(params, frozen, {}, batch, None, task.totals(batch))
    logits = np.asarray(params["w"], np.float64)[batch["tokens"][:, 0, :-1]]
    each = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    each = np.take_along_axis(each, batch["tokens"][:, 0, 1:, None], -1)[..., 0]
    weights = batch["weights"][:, 0]
    each = each * weights[:, 1:]
    assert float(found[0.5] - found[0.0]) == pytest.approx(
        -0.5 * each.sum() / weights.sum(), rel=1e-4
    )
    assert float(sums["chosen"][0]) == pytest.approx(each.sum(), rel=1e-5)
    assert float(sums["chosen"][1]) == 8


def test_kto_s_point_is_of_the_whole_window_in_the_step_too(tmp_path):
    """Each micro-batch of one row has nothing to compare with; the step looks at all rows first."""
    task, params, batch, _ = pairs("kto", folder=tmp_path)
    task = bigrams.replaced(task, params)
    whole = aligned.gradients(task, batch)
    assert whole[0]["reference_kl"] > 0.1
    for micro in (2, 8):
        assert aligned.same(whole, aligned.gradients(task, batch, micro))


@pytest.mark.parametrize(("margin", "centre"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.01)])
def test_of_reward_models(tmp_path, monkeypatch, margin, centre):
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    changes = {"reward.margin": margin, "reward.centre": centre}
    config = aligned.config("reward", tmp_path, rows, "score", **changes)
    seen, plain = [], scoring.scores
    monkeypatch.setattr(
        scoring,
        "scores",
        lambda m, v, batch: seen.append(batch["tokens"].shape) or plain(m, v, batch),
    )
    stream = types.SimpleNamespace(batch=None, fingerprint={})
    o = types.SimpleNamespace(dropout=False)
    task = reward.make_task(config, o, None, stream, None)
    rng = np.random.default_rng(0)
    params = {"u": jnp.asarray(rng.normal(size=(7, 1)), jnp.float32)}
    ranks = rng.integers(0, 3, (8, 4))
    batch = {
        "tokens": rng.integers(7, size=(8, 4, 5)).astype(np.int32),
        "mask": (np.arange(5) < rng.integers(1, 6, (8, 4, 1))).astype(np.int32),
        "better": (ranks[:, :, None] < ranks[:, None]).astype(np.float32),
        "agreement": np.zeros(8, np.float32),
    }
    wide = {n: np.pad(batch[n], ((0, 0), (0, 0), (0, 3))) for n in ("tokens", "mask")}
    found = bigrams.invariant(task, params, batch, {**batch, **wide}, tolerance=1e-5)
    assert set(seen) == {(8, 4, 5), (1, 4, 5), (8, 4, 8), (1, 4, 8)}, (
        "K answers are read, not pairs"
    )
    last = np.take_along_axis(batch["tokens"], batch["mask"].sum(-1, keepdims=True) - 1, -1)
    scores = np.asarray(params["u"], np.float64)[last[..., 0], 0]
    each = []
    for row, better in zip(scores, batch["better"], strict=True):
        at = np.argwhere(better)
        gap, both = row[at[:, 0]] - row[at[:, 1]] - margin, row[at[:, 0]] + row[at[:, 1]]
        each += [np.mean(np.log1p(np.exp(-gap)) + centre * both**2)] if len(at) else []
    assert found == pytest.approx(np.mean(each), rel=1e-5)
