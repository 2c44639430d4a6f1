"""Reward models on an encoder with its own tokens: learning, padding, rates by layer, mistakes."""

import json

import jax
import numpy as np
import pytest

from eval import preference
from models import families, interop
from models.build import build, example
from models.options import Options
from tests.train import aligned
from tests.train.test_reward import ROWS
from train import reward
from train.core import log
from train.core.config import complete
from train.data import tokenizer as tokenizers

BERT = {**aligned.SIZE, "layers": 2, "token_types": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reference folder: a small BERT without a head, and the WordPieces it reads."""
    path = tmp_path_factory.mktemp("bert")
    words = sorted({text for row in ROWS for text in (row["prompt"], *row["answers"])})
    tokens = tokenizers.named("wordpiece:600", words, encoder=True)
    o = Options.of(families.row("bert", **{**BERT, "vocab": tokens.vocab}))
    params = jax.jit(build(o).init)(jax.random.key(3), example(o))["params"]
    interop.export(path, o, params)
    tokens.save(path)
    return path


def config(tmp_path, folder, **changes):
    """A run from the folder; every layer's rate is half of the next one's."""
    made = aligned.config("reward", tmp_path, ROWS, "score", steps=30)
    made.unlock()
    size = {**BERT, "vocab": interop.options(folder).vocab}
    made.model = families.row("bert", **size, head="classify", labels=1)
    made.data.tokenizer, made.init.reference, made.layer_decay = "init", str(folder), 0.5
    made.update_from_flattened_dict(changes)
    return complete(made)


@pytest.fixture(scope="module")
def ran(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder")
    made = config(path, folder)
    return made, reward.run(made, path / "run"), path / "run"


def test_the_loss_goes_down_from_the_reference_weights(ran):
    _, fitted, path = ran
    losses = [row["loss"] for row in log.read(path) if "loss" in row]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:2])
    found = json.loads((path / "reward.json").read_text())
    assert found["valid/accuracy"] > 0.8 and found["valid/nll"] < np.log(2)
    assert 0 <= found["valid/calibration"] <= 0.5
    assert fitted.metrics["valid/accuracy"] == found["valid/accuracy"]


def test_lower_layers_move_less(ran, folder):
    _, fitted, _ = ran
    before = interop.load(folder).variables["params"]
    after = jax.device_get(fitted.variables()["params"])
    moved = [
        np.abs(after["blocks"][n]["mlp"]["up"]["kernel"] - before["blocks"][n]["mlp"]["up"]["kernel"])
        for n in ("0", "1")
    ]  # fmt: skip
    assert 0.3 < moved[0].mean() / moved[1].mean() < 0.75
    pool = np.abs(after["pool"]["kernel"] - before["pool"]["kernel"]).mean()
    assert pool > moved[1].mean(), "the pooler comes from the folder and has the whole rate"


def test_padding_and_the_other_answers_change_no_score(ran, folder):
    made, fitted, _ = ran
    _, o, tokenizer, stream, _ = reward._open(made)
    batch = {n: x for n, x in stream.batch(0).items() if n in ("tokens", "mask", "token_types")}
    score = jax.jit(lambda batch: preference.scores(build(o), fitted.variables(), batch))
    whole = np.asarray(score(batch))
    wide = {name: np.pad(x, ((0, 0), (0, 0), (0, 4))) for name, x in batch.items()}
    wide["tokens"][..., -4:] = 9
    np.testing.assert_allclose(score(wide), whole, atol=1e-5)
    other = {name: x.copy() for name, x in batch.items()}
    other["tokens"][:, 1] = tokenizer.sep
    np.testing.assert_allclose(np.asarray(score(other))[:, 0], whole[:, 0], atol=1e-5)
    assert np.abs(np.asarray(score(other))[:, 1] - whole[:, 1]).max() > 1e-3
    read = batch["tokens"][0, 0][batch["mask"][0, 0] > 0]
    assert read[0] == tokenizer.cls and (read == tokenizer.sep).sum() == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.head": "tokens"}, "model.head='classify' and labels=1, found a encoder"),
        ({"model.labels": 2}, "expected model.head='classify' and labels=1"),
        ({"data.tokenizer": "wordpiece:530"}, "has other tokens than .*\n.*tokenizer=init"),
        ({"data.tokenizer": "gpt2", "init.reference": ""}, "model.vocab=50257"),
    ],
)
def test_another_head_or_tokenizer_is_refused(tmp_path, folder, changes, words):
    made = config(tmp_path, folder, **changes)
    with pytest.raises(ValueError, match=words):
        reward.check(made)


def test_a_decoder_s_tokenizer_has_no_frame_for_an_encoder(tmp_path, folder):
    tokenizers.named("byte").save(tmp_path / "bytes")
    changes = {"data.tokenizer": str(tmp_path / "bytes"), "init.reference": "", "model.vocab": 300}
    with pytest.raises(ValueError, match="has no cls token; an encoder needs"):
        reward.check(config(tmp_path, folder, **changes))
