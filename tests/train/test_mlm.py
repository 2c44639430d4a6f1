"""The masked-token loop: its loss by hand, micro-batches, meshes, configs that do not fit, a run."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from eval import masked
from models import families
from models.build import build
from models.options import Options
from tests.train import toy
from tests.train.test_lm import agree
from train import mlm
from train.core import log
from train.core.config import complete

DRY = {"drop_embed": 0.0, "drop_attn": 0.0, "drop_resid": 0.0, "drop_head": 0.0}
SIZE = {"vocab": 40, "context": 16, "layers": 2, "width": 16, "heads": 2, "ff": 32}


def options(family="bert", head="pretrain", **more):
    return Options.of({**families.row(family, "base"), **SIZE, **DRY, "head": head, **more})


class Stream:
    """Batches without a data set."""

    fingerprint = {"tokens": 1}

    def __init__(self, pair=True, rows=8, length=12, slots=3):
        self.pair, self.shape, self.slots = pair, (rows, length), slots

    def batch(self, step):
        r = np.random.default_rng(step)
        rows, length = self.shape
        real = np.arange(length) < r.integers(4, length + 1, (rows, 1))
        draw = lambda most, *shape: r.integers(0, most, shape).astype(np.int32)
        counts = r.integers(1, self.slots + 1, (rows, 1))
        made = {
            "tokens": draw(40, rows, length),
            "mask": real.astype(np.int32),
            "token_types": (draw(2, rows, length) * real).astype(np.int32),
            "slots": draw(4, rows, self.slots),
            "targets": draw(40, rows, self.slots),
            "weights": (np.arange(self.slots) < counts).astype(np.float32),
        }
        return {**made, "pair": draw(2, rows)} if self.pair else made


def task(o, **more):
    return mlm.make_task(
        ConfigDict({"mesh": {}}), o, None, Stream(o.head == "pretrain", **more), None
    )


def gradients(o, *args, **more):
    return toy.gradients(task(o), *args, **more)


@pytest.fixture(scope="module")
def plain():
    return gradients(options())


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return (
        x
        - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - x.max(-1, keepdims=True)
    )


def test_the_loss_by_hand(plain):
    o, batch = options(), Stream().batch(0)
    model = build(o)
    inputs = {name: batch[name] for name in ("tokens", "mask", "token_types")}
    out = model.apply({"params": plain[2]}, inputs)
    rows = np.arange(8)[:, None]
    chosen = log_softmax(out["logits"])[rows, batch["slots"], batch["targets"]]
    masked = -(chosen * batch["weights"]).sum() / batch["weights"].sum()
    pairs = -log_softmax(out["scores"])[np.arange(8), batch["pair"]].mean()
    assert plain[0]["loss"] == pytest.approx(masked + pairs, rel=1e-5)
    assert plain[0]["nll"] == pytest.approx(masked, rel=1e-5)
    assert plain[0]["pair_nll"] == pytest.approx(pairs, rel=1e-5)


def test_accumulated_is_the_large_batch(plain):
    assert agree(plain, gradients(options(), micro=4))


def test_meshes_agree(plain):
    assert agree(plain, gradients(options(), sizes=(2, 2, 2)))


def test_scanned_and_shared_layers_train():
    o = options("albert", share_groups=1, embed_width=8)
    _, grads, _ = gradients(o)
    assert all(np.isfinite(x).all() for x in grads.values())


def test_dropout_asks_for_a_key():
    assert task(options(drop_attn=0.1)).dropout and not task(options()).dropout


CONFIG = dict(
    loop="mlm", steps=30, batch=8, length=32,
    model=families.row(
        "bert", "base", **{**SIZE, **DRY, "vocab": 600, "context": 32, "head": "masked"}
    ),
    data=dict(
        source="vader-movies", tokenizer="wordpiece:600", packing="full_sentences", pair="none",
        heldout=("1?",), masking=dict(unit="word", most=0),
    ),
    optim=dict(lr=5e-3, warmup=3), eval=dict(every=30, batches=2, pseudo=1), log=dict(every=1),
)  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model.head", "pretrain", "do not go together"),
        ("model.head", "none", "needs an encoder"),
        ("model.vocab", 500, "model.vocab=600"),
        ("model.position_pad", 1, "the tokenizer's padding is"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(field, value, words):
    config = ConfigDict(CONFIG)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=words):
        mlm.check(complete(config))


def test_a_run_learns_and_scores_itself(tmp_path):
    config = complete(ConfigDict(CONFIG))
    fitted = mlm.run(config, tmp_path)
    losses = [row["loss"] for row in log.read(tmp_path) if "loss" in row]
    assert losses[0] > np.log(600) - 0.7 and np.mean(losses[-5:]) < losses[0] - 0.5
    found = fitted.metrics
    assert found["heldout/loss"] < losses[0] and 0 < found["heldout/accuracy"] < 0.5
    assert 1 < found["pseudo/pseudo_perplexity"] < 600
    names = {f"heldout/{name}" for name in masked.names(config, Options.of(config.model.to_dict()))}
    assert names == {name for name in found if name.startswith("heldout/")}
    assert {f"pseudo/{name}" for name in masked.PSEUDO} <= set(found)
    config.best.metric = "heldout/acuracy"
    with pytest.raises(ValueError, match='did you mean "heldout/accuracy"'):
        mlm.run(config, tmp_path / "typed")
    assert not (tmp_path / "typed" / "checkpoints").exists(), "it is refused before a step"
    other = complete(ConfigDict({**CONFIG, "steps": 40}))
    other.data.masking.unit = "token"
    with pytest.raises(ValueError, match='unit is "token", but this run .* "word"'):
        mlm.run(other, tmp_path)
    other = complete(ConfigDict(CONFIG))
    other.init.checkpoint, other.data.tokenizer = str(tmp_path), "wordpiece:560"
    with pytest.raises(ValueError, match="has other tokens"):
        mlm.check(other)
