"""The loop over pictures: its loss by hand, resumes, teachers, resolutions, mistakes; pre-training."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from eval import images as scoring
from eval import probe
from models import families
from models.build import build
from models.options import Options
from scripts import probe as command
from tests.train import toy
from train import dvae, mim, vision
from train.core import checkpoint, forms
from train.core.config import complete
from train.data import images

VIT = dict(image_size=8, channels=1, patch=4, layers=2, width=16, heads=2, labels=3, drop_path=0.0)
NETS = {
    "vit": families.row("vit", "ti16", **VIT),
    "deit": families.row("deit", "ti-distilled", **VIT),
    "mim": families.row("beit", "b-mim", **{**VIT, "labels": 0}, vocab=8),
    "beit": families.row("beit", "b", **VIT),
    "resnet": families.row(
        "resnet", "20", image_size=8, channels=1, labels=3, depths=(1,), widths=(8,), strides=(1,),
        stem=(8,), stem_kernel=3,
    ),
    "dvae": dict(
        kind="dvae", family="dvae", image_size=8, channels=1, patch=4, layers=1, width=16, vocab=8,
        heads=1, act="relu", init="he", head="none",
    ),
}  # fmt: skip
LOOPS = {"mim": "mim", "dvae": "dvae"}
RUNS = {"vision": vision, "mim": mim, "dvae": dvae}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures whose brightness says their class."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = np.clip(rng.normal(60 + 60 * y[:, None, None], 20, (60, 8, 8)), 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    np.savez(path, x=x, y=y)
    return path


def config(net, data, **changes):
    made = ConfigDict(
        dict(
            loop=LOOPS.get(net, "vision"), steps=4, batch=8, length=1, model=NETS[net],
            data=dict(source=str(data), crop_share=1.0, valid_share=0.2, mean=(0.5,), deviation=(0.5,)),
            augment=dict(crop="shift", pad=1, mixup=0.0), distill=dict(vision.DISTILL), smooth=0.0, layer_decay=1.0,
            frozen_stats=False, tokenizer="", mask=dict(share=0.5, least=1), temperature=(1.0, 0.1),
            divergence=0.0, optim=dict(lr=1e-2), log=dict(every=1, tensorboard=False),
            init=dict(checkpoint=""), eval=dict(neighbours=0), mesh=dict(data=1),
        )
    )  # fmt: skip
    made = complete(made)
    made.update_from_flattened_dict(changes)
    return complete(made)


def train(net, data, workdir, **changes):
    made = config(net, data, **changes)
    return RUNS[made.loop].run(made, workdir)


@pytest.fixture(scope="module")
def parent(data, tmp_path_factory):
    """A finished run of the net with batch statistics, which others start from or learn from."""
    folder = tmp_path_factory.mktemp("parent")
    fitted = train("resnet", data, folder, **{"checkpoint.every": 2})
    return folder, toy.digest(fitted.state), fitted


class Stop(Exception):
    pass


def test_resumed_is_uninterrupted_batch_statistics_and_all(parent, data, tmp_path, monkeypatch):
    whole = images.Stream.batch

    def until(self, step):
        if step == 3:
            raise Stop
        return whole(self, step)

    changes = {"checkpoint.every": 2}
    with monkeypatch.context() as patch:
        patch.setattr(images.Stream, "batch", until)
        with pytest.raises(Stop):
            train("resnet", data, tmp_path, **changes)
    assert checkpoint.folders(tmp_path)[-1].name == "00000002"
    state = train("resnet", data, tmp_path, **changes).state
    assert toy.digest(state) == parent[1]
    counts = [x for n, x in forms.flat(state.extra).items() if n.endswith("count")]
    assert counts and all(int(x) == 4 for x in counts)


def test_what_a_run_says(parent):
    folder, _, fitted = parent
    assert json.loads((folder / "labels.json").read_text()) == ["0", "1", "2"]
    found = {name for name in fitted.metrics if name.startswith("valid/")}
    assert found == {f"valid/{name}" for name in scoring.NAMES["classify"] if name != "skipped"}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("images_per_second" in row for row in rows)


def test_its_features_are_probed_from_the_command_line(parent, capsys):
    assert command.main(["--from", str(parent[0]), "--neighbours", "3"]) == 0
    said = capsys.readouterr().out
    assert "48 pictures, features of 8" in said and "3 neighbours" in said and "linear" in said


def test_a_run_goes_on_from_another_with_its_statistics(parent, data, tmp_path):
    changes = {"init.checkpoint": str(parent[0]), "frozen_stats": True, "steps": 1, "mesh.data": 2,
               "data.valid_share": 0.0}  # fmt: skip
    state = train("resnet", data, tmp_path, **changes).state
    old = forms.flat(parent[2].state.extra)
    for name, x in forms.flat(state.extra).items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(old[name]))


def test_a_distilled_model_learns_from_the_teacher(parent, data, tmp_path):
    made = config("deit", data, **{"distill.teacher": str(parent[0]), "distill.weight": 0.25})
    made, o, parts = vision._open(made)
    stream = images.open_stream(made, parts["train"])
    taught = vision.teacher(made, o)
    task = vision.make_task(made, o, parts, stream, taught)
    params, extra = jax.jit(task.init)(jax.random.key(0))
    batch = stream.batch(0)

    @jax.jit
    def everything(params, frozen, batch):
        heads, _ = vision.forward(vision.build(o), {"params": params}, batch, None)
        scores = scoring.outputs(vision.build(taught[0]), frozen["teacher"], batch)
        value = task.loss(params, frozen, extra, batch, None, task.totals(batch))[0]
        return heads, scores, value, scoring.outputs(vision.build(o), {"params": params}, batch)

    heads, scores, value, mean = everything(params, task.frozen, batch)
    own, dist = (log_softmax(head) for head in heads)
    rows = np.arange(8)
    wanted = -0.75 * own[rows, batch["targets"]] - 0.25 * dist[rows, np.argmax(scores, -1)]
    assert float(value) == pytest.approx(wanted.mean(), rel=1e-5)
    np.testing.assert_allclose(mean, (heads[0] + heads[1]) / 2, atol=1e-6)
    changes = {"distill.teacher": str(parent[0]), "steps": 1, "data.valid_share": 0.0}
    fitted = train("deit", data, tmp_path, **changes)
    assert np.isfinite(fitted.metrics["loss"])


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_losses_by_hand():
    rng = np.random.default_rng(0)
    scores, taught = rng.normal(size=(2, 4, 5))
    batch = {"targets": np.array([0, 1, 2, 3]), "others": np.array([1, 0, 3, 2]),
             "share": np.full(4, 0.3, np.float32)}  # fmt: skip
    logp = log_softmax(scores)
    soft = 0.3 * np.eye(5)[batch["targets"]] + 0.7 * np.eye(5)[batch["others"]]
    soft = 0.9 * soft + 0.1 / 5
    got = vision.mixed(scores, batch, False, 0.1)
    np.testing.assert_allclose(got, -(soft * logp).sum(-1), rtol=1e-5)
    how = dict(kind="soft", temperature=3.0, weight=0.1)
    p, q = log_softmax(taught / 3), log_softmax(scores / 3)
    kl = 9 * (np.exp(p) * (p - q)).sum(-1)
    got = vision.distilled(np.ones(4), scores, taught, False, how)
    np.testing.assert_allclose(got, 0.9 + 0.1 * kl, rtol=1e-5)
    many = {"targets": np.eye(5, dtype=np.float32)[:4]}
    p = 1 / (1 + np.exp(-scores))
    wanted = -(many["targets"] * np.log(p) + (1 - many["targets"]) * np.log(1 - p)).mean(-1)
    np.testing.assert_allclose(vision.mixed(scores, many, True, 0.0), wanted, rtol=1e-5)


def test_a_teacher_of_many_labels_decides_or_is_matched_at_a_temperature():
    rng = np.random.default_rng(0)
    scores, taught = rng.normal(size=(2, 4, 5)).astype(np.float32) * 3
    entropy = lambda p, q: -(p * np.log(q) + (1 - p) * np.log(1 - q))
    squash = lambda x: 1 / (1 + np.exp(-x))
    how = dict(kind="hard", temperature=2.0, weight=0.25)
    wanted = entropy(taught > 0, squash(scores)).mean(-1)
    got = vision.distilled(np.ones(4), scores, taught, True, how)
    np.testing.assert_allclose(got, 0.75 + 0.25 * wanted, rtol=1e-4)
    p, q = squash(taught / 2), squash(scores / 2)
    wanted = 4 * (entropy(p, q) - entropy(p, p)).mean(-1)
    got = vision.distilled(np.ones(4), scores, taught, True, {**how, "kind": "soft"})
    np.testing.assert_allclose(got, 0.75 + 0.25 * wanted, rtol=1e-4)


def test_meshes_and_micro_batches_agree(data):
    made, o, parts = vision._open(config("vit", data, batch=16, smooth=0.1))
    task = vision.make_task(made, o, parts, images.open_stream(made, parts["train"]))
    plain, other = toy.gradients(task), toy.gradients(task, micro=2, sizes=(2, 2, 2))
    for name, x in plain[1].items():
        np.testing.assert_allclose(other[1][name], x, atol=2e-6)


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    """A tokenizer and a model that predicted its tokens; the runs' folders and metrics."""
    root = tmp_path_factory.mktemp("mim")
    first = train("dvae", data, root / "tokenizer", steps=2)
    changes = {"tokenizer": str(root / "tokenizer"), "eval.neighbours": 40, "steps": 2}
    return root, first, train("mim", data, root / "mim", **changes)


def test_pretraining_reports_what_it_should(pretrained):
    _, first, second = pretrained
    assert {"valid/error", "valid/variance", "valid/codes"} <= first.metrics.keys()
    assert 1 <= first.metrics["valid/codes"] <= 8
    assert 0 <= second.metrics["valid/neighbours"] <= 1
    assert 1.0 < second.metrics["nll"] < 3.0, "about log 8"


def test_only_masked_patches_count(pretrained, data):
    made = config("mim", data, tokenizer=str(pretrained[0] / "tokenizer"))
    o, parts, tutor = mim._open(made)
    stream = mim._stream(made, o, parts)
    task = mim.make_task(made, o, parts, stream, tutor)
    params, _ = jax.jit(task.init)(jax.random.key(0))
    batch = stream.batch(0)
    assert set(batch["masked"].sum(1)) <= {1.0, 2.0} and batch["masked"].shape == (8, 4)
    model, codes = mim.build(o), mim.build(tutor[0])

    @jax.jit
    def everything(params, frozen, batch):
        given = {"images": batch["images"], "masked": batch["masked"]}
        logits = model.apply({"params": params}, given)["logits"]
        found = codes.apply(frozen["tokenizer"], batch["images"], method="tokens")
        return logits, found, task.loss(params, frozen, {}, batch, None, task.totals(batch))[0]

    logits, found, value = everything(params, task.frozen, batch)
    nats = -np.take_along_axis(log_softmax(logits), np.asarray(found)[..., None], -1)[..., 0]
    wanted = (nats * batch["masked"]).sum() / batch["masked"].sum()
    assert float(value) == pytest.approx(wanted, rel=1e-5)


def test_fine_tuning_starts_from_pretraining_at_another_resolution(
    pretrained, data, tmp_path, capfd
):
    big = tmp_path / "big.npz"
    held = np.load(data)
    np.savez(big, x=np.kron(held["x"], np.ones((1, 2, 2), np.uint8)), y=held["y"])
    changes = {"init.checkpoint": str(pretrained[0] / "mim"), "model.image_size": 16, "steps": 1,
               "optim.lr": 0.0}  # fmt: skip
    state = train("beit", big, tmp_path / "run", **changes).state
    new, old = forms.flat(state.params), forms.flat(pretrained[2].state.params)
    np.testing.assert_array_equal(new["blocks/1/mlp/up/kernel"], old["blocks/1/mlp/up/kernel"])
    shared = np.asarray(old["relative/embedding"])
    for layer in range(2):
        table = np.asarray(new[f"blocks/{layer}/attn/relative/embedding"])
        assert table.shape == (7 * 7 + 3, 2) and shared.shape == (3 * 3 + 3, 2)
        np.testing.assert_array_equal(table[-3:], shared[-3:])
        np.testing.assert_allclose(table[24], shared[4], atol=1e-6)
    assert "start fresh" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("net", "changes", "words"),
    [
        ("vit", {"model.labels": 4}, "3 classes, config.model.labels is 4"),
        ("vit", {"model.head": "none", "model.labels": 0}, "classification of images needs"),
        ("deit", {}, "has a head that learns from a teacher"),
        ("vit", {"distill.kind": "warm"}, "kind='warm'"),
        ("resnet", {"layer_decay": 0.5}, "layer_decay is for a stack of blocks, not for a resnet"),
        ("mim", {}, "config.tokenizer"),
        ("mim", {"model.head": "classify", "model.labels": 3}, "needs a vit"),
        ("dvae", {"model.patch": 3}, "patches that divide the image"),
        ("vit", {"augment.mixup": 0.5, "batch": 5}, "5 rows are odd"),
    ],
)
def test_what_does_not_fit_is_named(net, changes, words, data):
    made = config(net, data)
    made.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=words):
        RUNS[made.loop].check(made)


def test_a_teacher_of_other_classes_is_refused(parent, data):
    o = Options.of({**NETS["vit"], "labels": 4})
    with pytest.raises(ValueError, match="has labels=3, the model labels=4"):
        vision.teacher(config("vit", data, **{"distill.teacher": str(parent[0])}), o)


def test_average_precision_and_top5_are_scikit_learns():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    scores, gold = rng.normal(size=(40, 7)), (rng.random((40, 7)) < 0.3).astype(np.float32)
    wanted = metrics.average_precision_score(gold, scores, average="macro")
    assert scoring.average_precision(scores, gold) == pytest.approx(wanted)
    labels = rng.integers(0, 7, 40)
    wanted = metrics.top_k_accuracy_score(labels, scores, k=5)
    assert scoring._classify(scores, labels)["top5"] == pytest.approx(wanted)


def test_probes_separate_what_can_be_separated():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 6))

    def drawn(count):
        y = np.arange(count) % 3
        return (centres[y] + 0.3 * rng.normal(size=(count, 6))).astype(np.float32), y

    train_, held = drawn(90), drawn(60)
    assert probe.neighbours(train_, held, k=5) > 0.9
    assert probe.linear(train_, held, steps=30) > 0.9
    noise = (train_[0], rng.integers(0, 3, 90))
    assert probe.linear(noise, held, steps=30) < 0.8


def test_a_start_that_knows_pixels_of_another_scale_is_said(parent, data, tmp_path):
    same = {"init.checkpoint": str(parent[0])}
    assert vision.rescaled(config("resnet", data, **same)) == ""
    assert vision.rescaled(config("resnet", data)) == ""
    found = vision.rescaled(config("resnet", data, **same, **{"data.mean": (0.4,)}))
    assert str(parent[0]) in found and "mean (0.5,)" in found and "has (0.4,)" in found
    gone = {"init.checkpoint": str(tmp_path / "gone"), "data.mean": (0.4,)}
    assert vision.rescaled(config("resnet", data, **gone)) == ""
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1], "image_std": [0.2]}')
    made = config("resnet", data).unlock()
    made.init.reference = str(tmp_path)
    assert "mean (0.1,) and deviation (0.2,)" in vision.rescaled(made)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.5]}')
    assert vision.rescaled(made) == ""


def test_averages_have_statistics_of_their_own_on_one_device_and_on_eight(data, tmp_path):
    made = {}
    for count in (1, 8):
        changes = {"steps": 1, "optim.ema": 0.5, "mesh.data": count}
        c = config("resnet", data, **changes)
        made[count] = jax.device_get(train("resnet", data, tmp_path / str(count), **changes).state)
    one, eight = (forms.flat(made[count].ema_extra) for count in (1, 8))
    c, o, parts = vision._open(c)
    batch = images.open_stream(c, parts["train"]).batch(0)
    model = build(o)
    fresh = jax.tree.map(np.zeros_like, made[1].extra)
    fresh = jax.tree.map_with_path(lambda path, x: x + (path[-1].key == "var"), fresh)
    variables = {"params": made[1].ema, **fresh}
    wanted = forms.flat(vision.forward(model, variables, batch, None)[1])
    assert one.keys() == wanted.keys() and len(one) >= 6
    for name, value in wanted.items():
        np.testing.assert_allclose(one[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(eight[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    own = forms.flat(made[1].extra)
    assert any(not np.allclose(own[name], value, rtol=1e-3) for name, value in one.items())
