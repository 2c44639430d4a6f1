"""Supervised fine-tuning: what padding, packing and micro-batches change (nothing), and that it learns."""

import jax
import numpy as np
import pytest

from eval import answers as scoring
from tests.train import aligned
from train import sft
from train.core import checkpoint, origin
from train.data import answers

ROWS = [
    {"prompt": f"{w} {n} ", "completion": w[: 2 + n % 3]} for n in range(6) for w in aligned.WORDS
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    made = aligned.config("sft", tmp_path_factory.mktemp("sft"), ROWS)
    config, o, tokenizer, stream, held = sft._open(made)
    return config, o, tokenizer, stream, held, sft.make_task(config, o, tokenizer, stream, held)


def test_accumulating_changes_nothing(opened):
    *_, stream, _, task = opened
    batch = stream.batch(0)
    whole = aligned.gradients(task, batch, scale=5.0)
    assert aligned.same(whole, aligned.gradients(task, batch, micro=4, scale=5.0))


def test_padding_and_packing_change_nothing(opened):
    _, _, tokenizer, stream, _, task = opened
    rows = [(np.arange(3, 9), np.arange(6) > 2), (np.arange(20, 24), np.arange(4) > 1)]
    narrow = answers.pad(rows, 10, 0)
    found = aligned.gradients(task, narrow, scale=5.0)
    wide = answers.pad(rows, 16, 77)
    assert aligned.same(found, aligned.gradients(task, wide, scale=5.0))
    assert aligned.same(found, aligned.gradients(task, answers.pack([rows], 12, 5), scale=5.0))


def test_prompts_are_not_trained(opened):
    *_, task = opened
    row = (np.arange(3, 9), np.arange(6) > 2)
    batch = answers.pad([row], 8, 0)
    assert batch["weights"].sum() == 3
    metrics, _ = aligned.gradients(task, batch)
    assert metrics["loss"] == pytest.approx(metrics["nll"], rel=1e-5)
    assert metrics["loss"] == pytest.approx(np.log(288), rel=0.05)


def test_it_learns_and_saves_its_template(tmp_path):
    made = aligned.config("sft", tmp_path, ROWS, **{
        "steps": 60, "data.template": "turns", "data.packing": "answers", "length": 48,
        "model.context": 48, "optim.lr": 3e-2,
    })  # fmt: skip
    fitted = sft.run(made, tmp_path / "run")
    assert fitted.metrics["valid/loss"] < 2.0 < np.log(288)
    found = {name for name in fitted.metrics if name.startswith("valid/")}
    assert found == {f"valid/{name}" for name in scoring.NAMES}
    _, _, _, tokenizer = checkpoint.load_run(tmp_path / "run")
    assert "generation" in tokenizer.chat_template


def _kernel(run):
    return checkpoint.load_run(run)[2]["params"]["blocks"]["0"]["attn"]["q"]["kernel"]


def test_adapters_are_trained_alone(tmp_path, opened):
    first = aligned.config("sft", tmp_path, ROWS)
    sft.run(first, tmp_path / "base")
    made = aligned.config("sft", tmp_path, ROWS, **{"lora.rank": 2, "lora.whole": ""})
    made.unlock()
    made.init.checkpoint, made.init.model = str(tmp_path / "base"), True
    made.data.tokenizer = "init"
    fitted = sft.run(made, tmp_path / "run")
    assert set(fitted.state.params) == {"lora"}
    _, model, variables, _ = checkpoint.load_run(tmp_path / "run")
    assert "blocks" in variables["params"] and model.o.width == 16
    start = origin.params({"checkpoint": str(tmp_path / "run")}, model.o, 0)  # of the next stage
    same = jax.tree.map(np.testing.assert_array_equal, start, dict(variables["params"]))
    assert jax.tree.structure(same) == jax.tree.structure(jax.tree.map(lambda x: None, start))
    moved = np.abs(start["blocks"]["0"]["attn"]["q"]["kernel"] - _kernel(tmp_path / "base")).max()
    assert 0 < moved < 0.1
    made.init.checkpoint, made.lora.rank = str(tmp_path / "run"), 0
    assert "blocks" in sft.run(made, tmp_path / "next").state.params


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.packing": "rows"}, "expected none or answers"),
        ({"data.loss": "prompt"}, "expected completion or all"),
        ({"length": 4}, "are longer than config.length=4"),
        ({"model.head": "classify", "model.labels": 1}, "expected a decoder"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        sft.check(aligned.config("sft", tmp_path, ROWS, **changes))


def test_check_allocates_and_trains_nothing(tmp_path):
    made, batch = sft.check(aligned.config("sft", tmp_path, ROWS))
    assert batch["tokens"].shape == (8, 20) and made.abstract.params
