"""bench train on encoders and encoder-decoders: equal batches, the trainer's own step, refusals."""

import jax
import numpy as np
import pytest

from scripts.bench import ours, sizes, texts
from scripts.bench.__main__ import main
from train.core.errors import cleanly


def job(family):
    return dict(
        kind="train", batch=8, length=16, threads=1, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1,
        lr=1e-3, clip=1.0, model=sizes.options(family, "tiny").plain(),
    )  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "t5", "bart", "longformer"])
def test_a_step_is_the_trainers(family, monkeypatch):
    monkeypatch.setattr(jax, "set_mesh", lambda mesh: None)  # which would last beyond this test
    made = job(family)
    train = ours.Train(made)
    assert not train.task.dropout, "no side has dropout"
    info = train.info()
    far = 4.0 if family == "t5" else 0.5  # T5's table has deviation 1
    assert abs(info["first_loss"] - np.log(256)) < far and info["flops"] > 1e5


def test_an_encoder_does_not_see_what_it_predicts():
    model = sizes.options("bert", "tiny").plain()
    a, b, c = (texts.rows(model, 3, 40, step) for step in (1, 1, 2))
    np.testing.assert_array_equal(a["tokens"], b["tokens"])
    assert not np.array_equal(a["tokens"], c["tokens"]) and a["slots"].shape == (3, 6)
    assert (np.take_along_axis(a["tokens"], a["slots"], 1) == 255).all()
    assert (a["tokens"] == 255).sum() == 18 and a["targets"].max() < 255
    assert (np.diff(a["slots"], axis=1) > 0).all(), "each slot once"


def test_a_decoder_reads_what_stands_before():
    made = texts.rows(sizes.options("bart", "tiny").plain(), 3, 10, 0)
    assert made["targets"].shape == (3, 5) and (made["decoder_tokens"][:, 0] == 2).all()
    np.testing.assert_array_equal(made["decoder_tokens"][:, 1:], made["targets"][:, :-1])


def test_what_is_no_decoder_is_refused(capsys):
    with pytest.raises(SystemExit):
        cleanly(main)(["train", "--family", "bert", "--size", "tiny", "--against", "nanogpt"])
    assert "nanogpt is a decoder, bert an encoder" in capsys.readouterr().err
