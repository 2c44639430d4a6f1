"""bench train on models of images: equal batches, the trainer's own step, and what it refuses."""

import jax
import numpy as np
import pytest

from scripts.bench import ours, pictures, sizes
from scripts.bench.__main__ import main
from train.core.errors import cleanly


@pytest.fixture(scope="module")
def train():
    o = sizes.options("resnet", "tiny")
    job = dict(
        kind="train", batch=8, length=1, threads=1, model=o.plain(), b1=0.9, b2=0.95, eps=1e-8,
        weight_decay=0.1, lr=1e-3, clip=1.0,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "set_mesh", lambda mesh: None)  # which would last beyond this module
        return ours.Train(job)


def test_batches_are_a_function_of_the_step():
    model = sizes.options("resnet", "tiny").plain()
    a, b, c = (pictures.rows(model, 3, step) for step in (1, 1, 2))
    assert a["images"].shape == (3, 32, 32, 3) and a["images"].dtype == np.float32
    np.testing.assert_array_equal(a["images"], b["images"])
    assert not np.array_equal(a["images"], c["images"])
    assert set(a["targets"]) <= set(range(10))


def test_a_step_is_the_trainers_and_moves_the_statistics(train):
    count = lambda: int(train.state.extra["batch_stats"]["stem"]["0"]["norm"]["count"])
    before, info = count(), train.info()
    assert count() == before + 1
    assert abs(info["first_loss"] - np.log(10)) < 0.5 and info["flops"] > 1e5


def test_what_reads_no_images_is_refused(capsys):
    argv = ["train", "--family", "resnet", "--size", "tiny", "--against", "nanogpt"]
    with pytest.raises(SystemExit):
        cleanly(main)(argv)
    assert "nanogpt reads no images" in capsys.readouterr().err
