"""Reward models: what padding, micro-batches and the number of answers change, head, accuracy, mistakes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import preference
from models import families
from models.build import build
from models.options import Options
from tests.train import aligned
from train import reward
from train.core import origin
from train.core.config import complete

ROWS = [
    {
        "prompt": f"{word} {n}",
        "answers": ["good tea", f"fine {n}", "poor", "bad film"][: 3 + n % 2],
        "ranks": [1, 2, 2, 3][: 3 + n % 2],
    }
    for n in range(4)
    for word in aligned.WORDS
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    made = aligned.config("reward", tmp_path_factory.mktemp("reward"), ROWS, "score")
    config, o, tokenizer, stream, held = reward._open(made)
    return config, o, tokenizer, stream, held, reward.make_task(config, o, tokenizer, stream, held)


def test_accumulating_changes_nothing(opened):
    *_, stream, _, task = opened
    whole = aligned.gradients(task, stream.batch(0), scale=5.0)
    assert aligned.same(whole, aligned.gradients(task, stream.batch(0), micro=2, scale=5.0))


def test_padding_changes_nothing(opened):
    *_, stream, _, task = opened
    batch = stream.batch(0)
    found = aligned.gradients(task, batch, scale=5.0)
    wide = {name: np.pad(batch[name], ((0, 0), (0, 0), (0, 4)), constant_values=fill)
            for name, fill in (("tokens", 9), ("mask", 0))}  # fmt: skip
    assert aligned.same(found, aligned.gradients(task, {**batch, **wide}, scale=5.0))
    more = {name: np.pad(batch[name], ((0, 0), (0, 1), (0, 0))) for name in ("tokens", "mask")}
    more["mask"][:, -1, 0] = 1
    more["better"] = np.pad(batch["better"], ((0, 0), (0, 1), (0, 1)))
    assert aligned.same(found, aligned.gradients(task, {**batch, **more}, scale=5.0))


def test_what_pads_is_is_never_read(opened):
    """A padding that is the end of text would be read one token early by who looks for it."""
    _, o, *_, task = opened
    tokens = np.asarray([[5, 6, 0, 0], [5, 6, 0, 9]])
    mask = np.asarray([[1, 1, 1, 0], [1, 1, 1, 0]])
    params, _ = task.init(jax.random.key(0))
    model = build(o)
    found = preference.scores(model, {"params": params}, {"tokens": tokens, "mask": mask})
    assert found[0] == found[1]
    full = preference.scores(model, {"params": params}, {"tokens": tokens, "mask": mask * 0 + 1})
    assert full[0] != found[0]


def test_the_head_starts_as_the_papers_have_it():
    size = {**aligned.SIZE, "width": 2, "heads": 1}  # where D + 1 is not nearly D
    o = Options.of(families.row("gpt2", **size, head="classify", labels=1, score_bias=True))
    keys = jax.random.split(jax.random.key(0), 5000)
    drawn = jax.jit(jax.vmap(lambda key: origin.scores(o)(key)["score"]))(keys)
    assert np.std(drawn["kernel"]) == pytest.approx(3**-0.5, rel=0.05)
    assert not np.any(drawn["bias"])


def test_a_run_begins_with_that_head(opened):
    _, o, *_, task = opened
    key = jax.random.key(3)
    found, want = (init["score"]["kernel"] for init in (task.init(key)[0], origin.scores(o)(key)))
    np.testing.assert_array_equal(found, want)


def test_it_says_how_many_epochs_the_steps_make(tmp_path, capsys):
    made = aligned.config("reward", tmp_path, ROWS, "score", steps=40, batch=4)
    reward._open(made)
    assert f"; {40 * 4 / 18:.1f} epochs" in capsys.readouterr().out, "a quarter of 24 is held out"


def test_it_learns_and_says_how_well(tmp_path):
    made = aligned.config("reward", tmp_path, ROWS, "score", steps=40)
    fitted = reward.run(made, tmp_path / "run")
    assert fitted.metrics["valid/accuracy"] > 0.9
    found = json.loads((tmp_path / "run" / "reward.json").read_text())
    assert found["valid/nll"] < np.log(2) and "valid/accuracy/margin_4" in found
    assert "valid/ceiling" not in found, "one labeller has no agreement"


def test_an_encoder_scores_too(tmp_path):
    size = {**aligned.SIZE, "vocab": 600}
    made = aligned.config("reward", tmp_path, ROWS, "score", **{"data.tokenizer": "wordpiece:600"})
    made.unlock()
    made.model = families.row("bert", **size, head="classify", labels=1, token_types=2)
    fitted = reward.run(complete(made), tmp_path / "run")
    assert np.isfinite(fitted.metrics["valid/nll"])


def test_ties_are_wrong_and_calibration_is_what_it_says():
    found = preference.summary(
        np.asarray([1.0, 0.0, -1.0, 2.0]), np.full(4, np.nan), np.zeros(4), float("nan")
    )
    assert found["accuracy"] == 0.5 and found["ties"] == 0.25
    rng = np.random.default_rng(0)
    gaps = np.abs(rng.normal(size=20_000))
    signs = np.where(rng.random(20_000) < 1 / (1 + np.exp(-gaps)), 1, -1)
    assert preference.calibration(gaps * signs) < 0.02
    assert preference.calibration(gaps * 4 * signs) > 0.1


def test_a_shift_changes_nothing_but_where_it_is_centred(opened):
    config, o, tokenizer, stream, _, task = opened
    params, _ = task.init(jax.random.key(0))
    moved = {**params, "score": {**params["score"], "bias": jnp.full(1, 3.0)}}
    batch, values = stream.batch(0), {}
    for centre in (0.0, 0.01):
        made = config.copy_and_resolve_references().unlock()
        made.reward = {"centre": centre}
        own = reward.make_task(made, o, tokenizer, stream, None)
        totals = own.totals(batch)
        one = jax.jit(own.loss)
        values[centre] = [float(one(p, (), {}, batch, None, totals)[0]) for p in (params, moved)]
    assert values[0.0][0] == pytest.approx(values[0.0][1], rel=1e-5)
    assert abs(values[0.01][0] - values[0.01][1]) > 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"model.labels": 2}, "labels=1"), ({"length": 6}, "comparisons are longer")],
)
def test_what_does_not_fit_is_named(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        reward.check(aligned.config("reward", tmp_path, ROWS, "score", **changes))


def test_under_adapters_the_head_is_the_loop_s_own(monkeypatch):
    monkeypatch.setattr(origin.lora, "settings", lambda config: {"rank": config})
    monkeypatch.setattr(origin.lora, "base", lambda config, o, made=None: made)
    monkeypatch.setattr(origin, "placed", lambda tree, config: tree)
    assert origin.adapted(2, None, lambda: "own") == "own"
    assert origin.adapted(2, None) is None and origin.adapted(0, None, lambda: 1 / 0) is None
