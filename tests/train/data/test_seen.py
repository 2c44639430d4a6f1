"""A teacher or tokenizer sees its own pixels; pictures of another size or other classes are refused."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from models import families
from models.build import build, example
from models.options import Options
from train import dvae, mim, vision
from train.core import checkpoint
from train.core.config import complete
from train.data import images, seen

SIZE = dict(image_size=8, channels=1, patch=4, layers=1, width=8, heads=1)
VIT = families.row("vit", "ti16", **SIZE, labels=3, drop_path=0.0)
MIM = families.row("beit", "b-mim", **SIZE, labels=0, drop_path=0.0, vocab=8)
DVAE = dict(kind="dvae", family="dvae", **SIZE, vocab=8, act="relu", init="he", head="none")
OTHER = dict(mean=(0.2,), deviation=(0.3,))


def config(model, source="", **changes):
    made = ConfigDict(
        dict(
            loop="vision", steps=1, batch=4, length=1, model=model, smooth=0.0, layer_decay=1.0,
            data=dict(source=source, crop_share=1.0, valid_share=0.0, mean=(0.5,), deviation=(0.5,)),
            augment=dict(crop="shift"), distill=dict(vision.DISTILL, teacher="it"), frozen_stats=False,
            tokenizer="it", mask=dict(share=0.5, least=1), eval=dict(neighbours=0), mesh=dict(data=1),
        )
    )  # fmt: skip
    made = complete(made)
    made.update_from_flattened_dict(changes)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "pictures.npz"
    np.savez(path, x=rng.integers(0, 256, (12, 8, 8), np.uint8), y=np.arange(12) % 3)
    return str(path)


def other(model, monkeypatch, labels=(), **data):
    """Makes every checkpoint a run of `model` on pixels of another scale; its variables."""
    o = Options.of(model)
    variables = jax.jit(build(o).init)(jax.random.key(1), example(o))
    told = config(model)
    told.data.update(**(data or OTHER))
    monkeypatch.setattr(checkpoint, "find", lambda name: name)
    monkeypatch.setattr(checkpoint, "read_labels", lambda folder: labels)
    loaded = told, build(o), variables, None
    monkeypatch.setattr(checkpoint, "load_run", lambda folder: loaded)
    return variables


def taken_in(variables, by, *path):
    """The same model for pixels before `by`, which its first linear map does instead."""
    variables = jax.tree.map(lambda x: x, jax.device_get(variables))
    held = variables["params"]
    for name in path:
        held = held[name]
    kernel = held["kernel"]
    held["bias"] = held["bias"] + by[1][0] * kernel.sum((0, 1, 2))
    held["kernel"] = kernel * by[0][0]
    return variables


def test_pixels_are_brought_to_another_scale():
    by = seen.rescaling(config(VIT), ConfigDict({**config(VIT), "data": OTHER}))
    pixels = np.arange(256).reshape(16, 16, 1)
    ours, theirs = (images.shape(ConfigDict({**config(VIT), "data": data})).normal(pixels)
                    for data in (dict(config(VIT).data), OTHER))  # fmt: skip
    np.testing.assert_allclose(seen.rescaled(ours, by), theirs, atol=1e-6)
    assert seen.rescaling(config(VIT), config(VIT)) is None
    assert seen.rescaled(ours, None) is ours
    converted = ConfigDict(dict(loop="vision", model=VIT, data={}))
    assert seen.rescaling(config(VIT), converted) is None, "nobody knows its scale"


def test_a_teacher_reads_its_own_pixels(data, monkeypatch):
    variables = other(VIT, monkeypatch)
    variables["params"]["score"]["kernel"] *= 100  # a teacher that has an opinion
    made, o, parts = vision._open(config(VIT, data, **{"distill.kind": "soft"}))
    taught = vision.teacher(made, o, parts["train"].labels)
    stream = images.open_stream(made, parts["train"])
    batch = stream.batch(0)
    same = o, taken_in(variables, taught[2], "embed", "patch"), None
    losses = []
    for tutor in (taught, same, (o, variables, None)):
        task = vision.make_task(made, o, parts, stream, tutor)
        params, extra = task.init(jax.random.key(0))
        found = jax.jit(lambda p, f, e, b, task=task: task.loss(p, f, e, b, None, task.totals(b)))
        losses.append(float(found(params, task.frozen, extra, batch)[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


def test_a_tokenizer_reads_its_own_pixels(data, monkeypatch):
    variables = other(DVAE, monkeypatch)
    made = config(MIM, data)
    o, parts, tutor = mim._open(made)
    stream = mim._stream(made, o, parts)
    batch = stream.batch(0)
    same = tutor[0], taken_in(variables, tutor[2], "encoder", "embed", "patch"), None
    losses = []
    for tokenizer in (tutor, same, (tutor[0], variables, None)):
        task = mim.make_task(made, o, parts, stream, tokenizer)
        params, _ = task.init(jax.random.key(0))
        found = jax.jit(lambda p, f, b, task=task: task.loss(p, f, {}, b, None, task.totals(b))[0])
        losses.append(float(found(params, task.frozen, batch)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) != losses[2]


def test_a_teacher_of_other_classes_is_refused(data, monkeypatch):
    other(VIT, monkeypatch, ("0", "2", "1"))
    made, o, parts = vision._open(config(VIT, data))
    labels = parts["train"].labels
    with pytest.raises(ValueError, match="the teacher it knows other classes.*'2' is not '1'"):
        vision.teacher(made, o, labels)
    made = config(VIT, data, allow_mismatch=True)
    assert vision.teacher(made, o, labels)[0] == o
    other(VIT, monkeypatch, ("0", "1", "2"))
    assert vision.teacher(config(VIT, data), o, labels)[0] == o


@pytest.mark.parametrize(
    ("loop", "model", "changes", "words"),
    [
        (vision, VIT, {"model.image_width": 16}, "reads pictures of 8 x 16; the stream's are square"),
        (vision, VIT, {"smooth": 1.0}, "config.smooth is 1.0; expected 0 <= x < 1"),
        (vision, VIT, {"smooth": -0.1}, "config.smooth is -0.1; expected 0 <= x < 1"),
        (mim, MIM, {"model.image_width": 16}, "reads pictures of 8 x 16"),
        (dvae, DVAE, {"model.image_width": 16}, "reads pictures of 8 x 16"),
        (mim, MIM, {"model.norm": "batch"}, "masked pre-training does not keep"),
        (dvae, DVAE, {"model.norm": "batch"}, "a tokenizer does not keep"),
        (vision, VIT, {"augment.crop": "sides", "augment.scale": (6.0, 9.0)}, "needs at least that"),
    ],
)  # fmt: skip
def test_what_a_model_does_not_read_is_refused(loop, model, changes, words, data):
    with pytest.raises(ValueError, match=words):
        loop._open(config(model, data, **changes))


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_share_of_the_teacher_is_a_share(weight):
    with pytest.raises(ValueError, match=f"config.distill.weight is {weight}; expected at least 0"):
        vision.settings(config(VIT, **{"distill.weight": weight}))
