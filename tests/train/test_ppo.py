"""PPO and the group methods: identities, invariances, rollouts, resuming bit for bit, mistakes."""

import json

import jax
import numpy as np
import pytest

from models.options import Options
from tests.train import aligned, toy
from train import ppo, reward
from train.core import checkpoint, log, origin, rewards, rollout, rounds
from train.data import prompts, tables

PROMPTS = [{"prompt": f"{word} {n}", "target": word} for n in range(4) for word in aligned.WORDS]
SMALL = {
    "ppo.new": 6, "ppo.epochs": 2, "ppo.minibatches": 2, "ppo.group": 4, "reward.kind": "letters",
    "reward.missing_eos": "none", "steps": 4,
}  # fmt: skip
METHODS = rollout.METHODS


def config(folder, **changes):
    return aligned.config("ppo", folder, PROMPTS, **{**SMALL, **changes})


def opened(folder, **changes):
    """(task, setting, first parameters, frozen) of a config."""
    made, o, value, tokenizer, setting, _ = ppo._open(config(folder, **changes))
    first, frozen, _ = ppo._parameters(made, o, value, setting.how)
    task = ppo.make_task(made, o, value, tokenizer, setting, frozen, lambda: first)
    setting.writer.mesh = None
    if setting.scorer.plain:  # a policy of noise earns nothing
        scores = np.random.default_rng(0).normal(size=setting.size).astype(np.float32)
        setting.scorer = lambda *_: scores
    return task, setting, first, frozen


class Quiet:
    """A round's host side without a run around it."""

    def __init__(self, setting):
        self.setting, self.said = setting, {}

    write, scored, judged = rounds.Rounds.write, rounds.Rounds.scored, rounds.Rounds.judged
    identities = rounds.Rounds.identities


def wrote(setting, first, frozen, number=0):
    """(what a round wrote, raw scores, its rows) and the rows made ready for minibatches."""
    quiet = Quiet(setting)
    made, raw = quiet.write(first, frozen, number)
    made["score"] = quiet.scored(raw, made, {"gain": 1.0, "bias": 0.0})
    found = quiet.judged(first, made, setting.how["kl"]["beta"])
    rows = {name: np.asarray(x) for name, x in found.items()}
    setting.local = rows | {n: made[n] for n in ("answer", "old", "reference", "tokens", "mask")}
    return made, raw, quiet


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    task, setting, first, frozen = opened(tmp_path_factory.mktemp("ppo"))
    made, raw, quiet = wrote(setting, first, frozen)
    return task, setting, first, frozen, made, raw, quiet


def start(task, first):
    """The task with those first parameters, for `aligned.gradients`."""
    import dataclasses

    return dataclasses.replace(task, init=lambda key: (first, {}))


def test_before_the_first_update_kl_is_0_and_ratios_are_1(plain):
    task, setting, first, frozen, made, raw, quiet = plain
    np.testing.assert_allclose(made["old"], made["reference"], atol=1e-6)
    quiet.identities(first, made, {}, 0)
    batch = setting.minibatch(0)
    metrics, found = aligned.gradients(start(task, first), batch)
    assert metrics["ratio"] == pytest.approx(1, abs=1e-5) and metrics["clipped"] == 0
    assert metrics["moved"] == pytest.approx(0, abs=1e-8)
    assert max(np.abs(x).max() for x in found.values()) > 1e-4
    off = {**made, "old": made["old"] + 0.1}
    words = "the ratio differs from 1.*KL to the reference is not 0.*config.ppo.old=scored"
    with pytest.raises(ValueError, match=words):
        quiet.identities(first, off, {}, 0)


def test_cached_equals_full_and_temperature_is_in_every_log_probability(tmp_path):
    _, setting, first, frozen = opened(tmp_path, **{"ppo.temperature": 0.7, "ppo.old": "scored"})
    made, _, quiet = wrote(setting, first, frozen)
    quiet.identities(first, made, {}, 0)  # the reference's, too
    made["reference"] = made["reference"] * 0.7
    with pytest.raises(ValueError, match="KL"):
        quiet.identities(first, made, {}, 0)
    np.testing.assert_allclose(made["sampled"], made["old"] * made["answer"], atol=2e-5)
    plain = setting.writer.model.apply(
        {"params": first["policy"]}, {n: made[n] for n in ("tokens", "mask")}
    )["logits"]
    raw = jax.nn.log_softmax(plain[:, :-1, : setting.writer.tokenizer.vocab] / 0.7)
    want = np.take_along_axis(np.asarray(raw), made["tokens"][:, 1:, None], -1)[:, -6:, 0]
    np.testing.assert_allclose(made["old"] * made["answer"], want * made["answer"], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "noted"),
    [
        ({}, True),
        ({"ppo.old": "scored"}, False),
        ({"model.dtype": "bfloat16"}, False),
        ({"model.dtype": "bfloat16", "ppo.old": "sampled"}, True),
        ({"model.dtype": "bfloat16", "model.stream": "float32"}, False),
        ({"model.experts": 3}, False),
    ],
)
def test_log_probabilities_are_those_of_sampling_where_they_are_exact(tmp_path, changes, noted):
    _, setting, first, frozen = opened(tmp_path, **changes)
    assert setting.writer.noted() == noted
    made, raw, quiet = wrote(setting, first, frozen)
    quiet.identities(first, made, {}, 0)
    assert (made["old"] is made["sampled"]) == noted
    assert ("mismatch" in rollout.watched(made, raw, "ppo", 1)) != noted
    scored = np.asarray(setting.writer.log_probs(first["policy"], made["tokens"], made["mask"]))
    exact = 1e-5 if setting.writer.exact() or not noted else 0.05
    np.testing.assert_allclose(made["old"] * made["answer"], scored * made["answer"], atol=exact)
    if setting.writer.exact():
        apart = (made["old"] - made["reference"]) * made["answer"]
        assert (apart == 0).all(), "a policy that has not moved has a KL of exactly 0"


def test_on_an_accelerator_that_rounds_operands_a_pass_gives_them(plain, monkeypatch):
    writer = plain[1].writer
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for asked, noted in (("default", False), ("float32", True), ("highest", True)):
        with jax.default_matmul_precision(asked):
            assert writer.noted() == noted


def test_rows_are_as_long_as_the_longest_prompt_and_an_answer(plain, tmp_path):
    _, setting, first, *_ = plain
    _, wide, *_ = opened(tmp_path, length=40)
    longest = max(len(row) for row in setting.prompts)
    assert wide.room == setting.room == longest < 20 - 6, "length is a bound"
    assert wide.ask(0)[0].shape == (wide.size, longest)
    assert setting.carry()["rows"]["tokens"].shape == (setting.size, longest + 6)


def test_a_kl_in_the_loss_is_between_two_passes(tmp_path):
    _, setting, first, frozen = opened(tmp_path, **{"ppo.method": "grpo", "kl.place": "loss"})
    made, *_ = wrote(setting, first, frozen)
    passed = setting.writer.log_probs(frozen["reference"], made["tokens"], made["mask"])
    assert setting.writer.noted()
    np.testing.assert_array_equal(made["reference"], passed)


@pytest.mark.parametrize(
    ("dtype", "off", "raises"),
    [("bfloat16", 0.01, False), ("bfloat16", 0.1, True), ("float32", 0.01, True)],
)
def test_rounded_operands_have_a_coarser_bound_at_the_first_update(tmp_path, dtype, off, raises):
    _, setting, first, frozen = opened(tmp_path, **{"ppo.old": "sampled", "model.dtype": dtype})
    made, _, quiet = wrote(setting, first, frozen)
    made = {**made, "old": made["old"] + off}
    if not raises:
        return quiet.identities(first, made, {}, 0)
    with pytest.raises(ValueError, match="the ratio differs from 1 by"):
        quiet.identities(first, made, {}, 0)


def test_a_longer_held_out_prompt_is_answered_and_pads_no_training_row(tmp_path):
    rows = [{"prompt": "aa bb cc", "target": "aa"}, {"prompt": "dd", "target": "dd"}]
    (tmp_path / "held").mkdir()
    held = aligned.config("ppo", tmp_path / "held", rows).data.train
    made = config(tmp_path, **{"data.valid": held, "data.valid_share": 0.0, "batch": 1})
    made, _, _, _, setting, (asked, found) = ppo._open(made)
    longest = max(map(len, found))
    assert setting.room == max(map(len, setting.prompts)) < longest < 2 * setting.room
    seen = []

    def writer(params, tokens, mask, seeds):
        seen.append((tokens.shape[1], mask.sum(1).tolist()))
        few = np.zeros(len(tokens))
        return {"ended": few, "lengths": few, "tokens": np.zeros((len(tokens), 6), np.int32)}

    writer.settings, writer.texts = setting.writer.settings, lambda out: [""] * len(out["tokens"])
    setting.writer, setting.scorer = writer, lambda out, *_: np.zeros(len(out["tokens"]))
    run = rounds.evaluator(made, setting, (asked, found), {})
    run({"params": {"policy": None}})
    assert [width for width, _ in seen] == [longest, longest], "one shape, compiled once"
    assert [real for _, [real] in seen] == [len(row) for row in found]


def test_what_is_equal_but_for_rounding_is_equal():
    noted, scored = np.float32([-1.0, -2.0, -3.0]), np.float32([-1.00001, -2.0001, -3.0])
    assert rollout.settled(noted, scored).tolist() == [-1.0, scored[1], -3.0]


def test_a_row_does_not_depend_on_the_others_or_on_padding(plain):
    _, setting, first, *_ = plain
    tokens, mask, _ = setting.ask(0)
    seeds = rollout.seeds(0, 0, len(tokens))
    whole = setting.writer(first["policy"], tokens, mask, seeds)
    for n in (0, 3):
        wide = [np.pad(x[n : n + 1], ((0, 0), (3, 0))) for x in (tokens, mask)]
        alone = setting.writer(first["policy"], *wide, seeds[n : n + 1])
        np.testing.assert_array_equal(alone["tokens"][0, 3:], whole["tokens"][n])
        np.testing.assert_allclose(alone["sampled"][0], whole["sampled"][n], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_accumulating_and_padding_change_nothing(tmp_path, method):
    changes = {"ppo.method": method}
    if method in ("grpo", "dr_grpo"):
        changes |= {"kl.place": "loss", "kl.beta": 0.1}
    task, setting, first, frozen = opened(tmp_path, **changes)
    wrote(setting, first, frozen)
    assert ("value" in first) == (method == "ppo")
    rng = np.random.default_rng(0)
    setting.local["old"] = setting.local["old"] + rng.normal(0, 0.1, setting.local["old"].shape)
    setting.local["reference"] = setting.local["old"] + 0.3
    batch = {name: np.asarray(x, x.dtype if x.dtype.kind == "i" else np.float32)
             for name, x in setting.minibatch(0).items()}  # fmt: skip
    whole = aligned.gradients(start(task, first), batch)
    assert aligned.same(whole, aligned.gradients(start(task, first), batch, micro=4))
    left = {name: np.pad(batch[name], ((0, 0), (2, 0))) for name in ("tokens", "mask")}
    assert aligned.same(whole, aligned.gradients(start(task, first), {**batch, **left}))
    hidden = {name: np.where(batch["answer"] > 0, batch[name], 7.0).astype(np.float32)
              for name in ("old", "reference", "values", "returns")}  # fmt: skip
    assert aligned.same(whole, aligned.gradients(start(task, first), {**batch, **hidden}))


def test_at_the_first_step_grpo_s_loss_is_0_and_its_gradient_is_not(tmp_path):
    task, setting, first, frozen = opened(tmp_path, **{
        "ppo.method": "grpo", "kl.place": "loss", "kl.beta": 0.0, "ppo.minibatches": 1,
        "steps": 2, "ppo.aggregate": "sequences",
    })  # fmt: skip
    wrote(setting, first, frozen)
    metrics, found = aligned.gradients(start(task, first), setting.minibatch(0))
    assert abs(metrics["loss"]) < 1e-5
    assert max(np.abs(x).max() for x in found.values()) > 1e-3


def test_a_group_run_says_that_its_loss_begins_near_0(tmp_path, capsys):
    ppo.run(config(tmp_path, **{"ppo.method": "grpo"}), tmp_path / "run")
    assert capsys.readouterr().err.count("a loss near 0 is how a group method begins") == 1


def test_a_reward_is_learned_and_a_run_goes_on_bit_for_bit(tmp_path):
    changes = {"steps": 8, "kl.controller": "adaptive", "optim.ema": 0.9, "reward.normalise": True,
               "mix.weight": 0.5, "mix.source": "shakespeare"}  # fmt: skip
    made = config(tmp_path, **changes)
    whole = ppo.run(made, tmp_path / "whole")
    part = made.copy_and_resolve_references()
    part.steps = 5  # in the middle of a round, which a run's own length cannot be
    with pytest.raises(ValueError, match="no whole number of rounds"):
        ppo.run(part, tmp_path / "part")
    other = made.copy_and_resolve_references()
    other.checkpoint.every = 5
    ppo.run(other, tmp_path / "part")
    last = tmp_path / "part" / "checkpoints" / "00000008"
    import shutil

    shutil.rmtree(last)
    again = ppo.run(other, tmp_path / "part")
    assert toy.digest(again.state.params) == toy.digest(whole.state.params)
    assert toy.digest(again.state.carry) == toy.digest(whole.state.carry)
    rows = [row for row in log.read(tmp_path / "whole") if "round/reward" in row]
    assert len(rows) == 2 and abs(rows[0]["round/kl"]) < 1e-4
    assert rows[0]["round/score"] == pytest.approx(0, abs=1e-3)
    less = 1 - 0.2 * 16 / 10_000  # KL is 0 of a target of 6, over the 16 answers of a round
    assert rows[1]["round/beta"] == pytest.approx(rows[0]["round/beta"] * less, rel=1e-6)
    assert all("round/" + name in rows[1] for name in ("explained", "distinct", "entropy"))
    shown = [json.loads(x) for x in (tmp_path / "whole" / rounds.SAMPLES).read_text().splitlines()]
    assert {row["step"] for row in shown} == {8} and 1 <= len(shown) <= 5
    assert set(shown[0]) == {"step", "prompt", "answer", "reward"}
    assert whole.metrics["valid/reward"] >= 0
    _, model, variables, _ = checkpoint.load_run(tmp_path / "whole")
    assert "embed" in variables["params"] and model.o.head == "lm"


def judged_by(folder) -> dict:
    """What a policy's config says of a reward model that is trained here, two steps long."""
    rows = [{"prompt": p["prompt"], "chosen": p["target"], "rejected": "zz"} for p in PROMPTS]
    made = aligned.config("reward", folder, rows, "score", length=24, **{"optim.lr": 3e-2})
    reward.run(made, folder / "reward")
    return {"reward.kind": "model", "reward.checkpoint": str(folder / "reward"), "length": 24,
            "reward.missing_eos": "replace"}  # fmt: skip


def test_the_value_net_starts_as_the_reward_model(tmp_path):
    task, setting, first, frozen = opened(tmp_path, **judged_by(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, first["value"], frozen["reward"])
    made, raw, _ = wrote(setting, first, frozen)
    tokens, mask = made["tokens"][:1], made["mask"][:1]
    short = tokens[:, mask[0] > 0]
    model = reward.build(Options.of(checkpoint.read_config(
        checkpoint.find(tmp_path / "reward"))["model"]))  # fmt: skip
    alone = model.apply({"params": frozen["reward"]}, {"tokens": short})["scores"]
    np.testing.assert_allclose(raw[0], alone[0, 0], atol=1e-5)
    assert (made["score"][~made["ended"]] == -1).all()


def test_without_a_reward_model_the_value_net_starts_at_0(plain):
    *_, made, _, _ = plain
    _, setting, first, frozen, *_ = plain
    assert not np.any(setting.local["values"])
    np.testing.assert_array_equal(
        first["value"]["embed"]["tokens"]["embedding"],
        first["policy"]["embed"]["tokens"]["embedding"],
    )


def test_the_best_of_a_group_is_what_is_learned(tmp_path):
    _, setting, first, frozen = opened(tmp_path, **{"ppo.method": "best"})
    made, raw, _ = wrote(setting, first, frozen)
    chosen = setting.local["advantages"].max(-1).reshape(-1, 4)
    assert (chosen.sum(-1) == 1).all()
    np.testing.assert_array_equal(chosen.argmax(-1), made["score"].reshape(-1, 4).argmax(-1))
    found = rollout.watched(made, raw, "best", 4)
    assert found["kl_bound"] == pytest.approx(np.log(4) - 0.75)
    equal = np.full(7, 0.1, np.float32)
    assert equal.std() > 0  # by rounding
    assert rollout.watched(made, equal, "best", 4)["reward_std"] == 0


def test_an_answer_that_cannot_be_scored(plain, tmp_path):
    *_, quiet = plain
    quiet.setting.scorer, kept = lambda *_: np.asarray([np.nan] * 16), quiet.setting.scorer
    with pytest.raises(ValueError, match="the reward of 16 answers of 16 is nan"):
        quiet.write(plain[2], plain[3], 0)
    quiet.setting.scorer = kept
    _, setting, first, frozen = opened(tmp_path, **{"ppo.method": "grpo"})
    scores = np.tile(np.asarray([1.0, np.nan, 0.0, 2.0], np.float32), 4)
    setting.scorer = lambda *_: scores
    wrote(setting, first, frozen)
    assert not setting.local["advantages"][1::4].any() and setting.local["advantages"][::2].any()


def test_signs_of_failing_are_said():
    assert rollout.failing({"kl": 3.0, "ended": 0.9, "distinct": 1.0}, 50.0) == []
    said = rollout.failing({"kl": 80.0, "ended": 0.0, "flat_groups": 1.0, "mismatch": 1.0}, 50.0)
    assert len(said) == 4 and "80.0 nats" in said[0]
    assert "below 0" in rollout.failing({"kl": -2.0}, 50.0)[0]
    assert rollout.failing({"kl": -0.5}, 50.0) == []


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"prompt": "a"}, {"prompt": "a"}], "line 2 repeats the prompt of .* line 1"),
        ([{"prompt": ""}], "line 1: the prompt is empty"),
        ([{"prompt": " "}], "line 1: the prompt is empty"),
    ],
)
def test_bad_prompts_are_named(tmp_path, rows, words):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=words):
        prompts.read(tables.read(str(path)), {"data": {}})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ppo.method": "gpro"}, "did you mean .grpo"),
        ({"ppo.metod": "ppo"}, "did you mean .method"),
        ({"ppo.aggregate": "mean"}, "config.ppo.aggregate"),
        ({"ppo.method": "grpo", "ppo.group": 5}, "are no groups"),
        ({"steps": 3}, "no whole number of rounds"),
        ({"ppo.new": 20}, "leaves no room for a prompt"),
        ({"ppo.temperature": 0.0}, "expected more than 0"),
        ({"reward.kind": "model"}, "names none"),
        ({"anomaly.policy": "rollback"}, "would repeat a round"),
        ({"length": 10}, "leaves room for 4"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        ppo.check(config(tmp_path, **changes))


def test_each_epoch_sees_every_row_once_in_an_order_of_its_own(plain):
    _, setting, *_ = plain
    held, setting.local = setting.local, {"answer": np.arange(setting.size)}
    orders = [
        np.concatenate([setting.minibatch(2 * epoch + part)["answer"] for part in (0, 1)])
        for epoch in range(4)
    ]
    setting.local = held
    assert all(sorted(order) == list(range(setting.size)) for order in orders)
    assert len({tuple(sorted(order[: setting.batch])) for order in orders}) == 4


def test_dropout_and_filters_are_off(tmp_path):
    made = config(tmp_path, **{"model.drop_resid": 0.1, "model.drop_head": 0.1})
    _, o, value, _, setting, _ = ppo._open(made)
    assert not o.dropout and not value.dropout
    s = setting.writer.settings
    assert (s.top_k, s.top_p, s.min_p, s.typical_p, s.repetition_penalty) == (0, 1, 0, 1, 1)


def test_scores_are_brought_to_mean_0_and_deviation_1():
    raw = np.asarray([3.0, 5.0, 7.0])
    gain, bias = rewards.affine(raw)
    np.testing.assert_allclose(
        [(gain * raw + bias).mean(), (gain * raw + bias).std()], [0, 1], atol=1e-9
    )
    assert rewards.affine(np.full(3, 2.0)) == (1.0, -2.0)
    assert np.full(7, 0.1).std() > 0  # by rounding
    assert rewards.affine(np.full(7, 0.1)) == pytest.approx((1.0, -0.1))
    with pytest.raises(ValueError, match="no answer of the reference"):
        rewards.affine([np.nan])


@pytest.mark.slow
def test_policy_value_and_reward_are_laid_out_over_one_mesh(tmp_path, monkeypatch):
    """All four nets are cut, and a round's scores, values and updates are those of rows alone."""
    changes = {"length": 24, "steps": 4, "optim.lr": 1e-3, **judged_by(tmp_path)}
    frozen, real = [], origin.placed
    monkeypatch.setattr(origin, "placed", lambda *a: frozen.append(real(*a)) or frozen[-1])
    whole = ppo.run(config(tmp_path, **changes), tmp_path / "data")
    cut = config(tmp_path, **changes)
    cut.mesh.update(data=2, fsdp=2, tensor=2)
    other = ppo.run(cut, tmp_path / "cut")
    rows = [log.read(tmp_path / name)[0] for name in ("data", "cut")]
    for name in ("entropy", "reward", "score"):
        assert rows[0][f"round/{name}"] == pytest.approx(rows[1][f"round/{name}"], rel=1e-4)
    params = other.state.params
    for net in (params["policy"], params["value"], frozen[-1]["reference"], frozen[-1]["reward"]):
        table = net["embed"]["tokens"]["embedding"]
        assert len({str(shard.index) for shard in table.addressable_shards}) > 1
    a, b = (jax.device_get(run.state.params) for run in (whole, other))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-4), a, b)
