"""The sequence-to-sequence loop: its loss by hand, micro-batches, meshes, averaging, a run."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from eval import translate
from models import families
from models.build import build, shapes
from models.options import Options
from scripts import convert, sample
from tests.train import toy
from tests.train.test_lm import agree
from train import seq2seq
from train.core import average, checkpoint, forms, log, shard, start
from train.core.config import complete
from train.data import pairs, tokenizer

DRY = {"drop_embed": 0.0, "drop_resid": 0.0}
SIZE = {"vocab": 40, "context": 24, "layers": 1, "width": 16, "heads": 2, "ff": 32}


def options(**more):
    return Options.of({**families.row("transformer", "base"), **SIZE, **DRY, **more})


class Stream:
    """Batches without a data set."""

    fingerprint = {"pairs": 1}

    def batch(self, step):
        draw = np.random.default_rng(step)
        row = lambda: draw.integers(1, 40, draw.integers(2, 9))
        return pairs.frame([row() for _ in range(8)], [row() for _ in range(8)], (10, 9), 0, 0)


def gradients(o, micro=1, sizes=(1, 1, 1), smoothing=0.1):
    config = ConfigDict({"mesh": {}, "smoothing": smoothing})
    return toy.gradients(seq2seq.make_task(config, o, None, Stream(), None), micro, sizes)


@pytest.fixture(scope="module")
def plain():
    return gradients(options())


def test_the_smoothed_loss_by_hand(plain):
    """Labels of 0.9 and 0.1 / V on all, the target among them, over the real targets."""
    batch = Stream().batch(0)
    given = {name: batch[name] for name in ("tokens", "mask", "decoder_tokens")}
    logits = np.asarray(build(options()).apply({"params": plain[2]}, given)["logits"], np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    labels = 0.9 * np.eye(40)[batch["targets"]] + 0.1 / 40
    nats = -(labels * logs).sum(-1)
    expected = (nats * batch["weights"]).sum() / batch["weights"].sum()
    assert plain[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert plain[0]["smoothed"] == pytest.approx(expected, rel=1e-5)


def test_accumulated_is_the_large_batch(plain):
    assert agree(plain, gradients(options(), micro=4))


def test_meshes_agree(plain):
    assert agree(plain, gradients(options(), sizes=(2, 2, 2)))


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_every_parameter_has_its_place_on_a_mesh(family):
    o = Options.of({**families.row(family, ""), **SIZE, "head_size": 8})
    where = shard.mesh({"data": 1, "fsdp": 2, "tensor": 2})
    placed = forms.flat(shard.params(shapes(o), where))
    spec = lambda name: tuple(placed[name].spec)
    assert spec("encoder/blocks/0/attn/q/kernel") == ("fsdp", "tensor", None)
    assert spec("decoder/blocks/0/cross/o/kernel") == ("tensor", None, "fsdp")
    assert spec("embed/tokens/embedding") == ("tensor", "fsdp")
    if family == "t5":
        assert spec("decoder/relative/embedding") == (None, "tensor")


CONFIG = dict(
    loop="seq2seq", steps=60, batch=20, length=16, smoothing=0.1, average=2,
    model=families.row("transformer", "base", **{**SIZE, **DRY, "vocab": 280, "context": 80}),
    data=dict(
        task="pairs", train="toy:copy", text="text", target="target", group="part",
        heldout=("heldout",), tokenizer="char", tokens=256,
    ),
    optim=dict(lr=4e-3, schedule="inverse_root", warmup=20), decode=dict(beams=2, limit=20),
    checkpoint=dict(every=30, keep=2), log=dict(every=1), mesh=dict(data=1),
)  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model.vocab", 100, "config.model.vocab=2"),
        ("length", 8, "do not fit config.length=8"),
        ("data.task", "translate", "pairs or denoise"),
        ("data.target_length", 81, "config.data.target_length is 81; .*at most 80"),
        ("data.tokens", -1, "config.data.tokens is -1"),
        ("data.least", 0, "config.data.least is 0"),
        ("smoothing", 1.5, "config.smoothing is 1.5"),
        ("smoothing", -0.2, "config.smoothing is -0.2"),
        ("decode.rule", "hf", "config.decode.rule is 'hf'"),
        ("decode.beams", 0, "config.decode.beams is 0"),
        ("decode.alpha", 500.0, "config.decode.alpha is 500.0"),
        ("decode.limit", -7, "config.decode.limit is -7"),
        ("decode.beam", 4, "config.decode has no field 'beam'; .*beams"),
        ("model", families.row("gpt2", "124m", **SIZE), "a decoder with head='lm'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(field, value, words):
    config = ConfigDict(CONFIG)
    if isinstance(value, dict):
        config[field] = value
    else:
        *parents, last = field.split(".")
        with (config[parents[0]] if parents else config).unlocked() as section:
            section[last] = value
    with pytest.raises(ValueError, match=words):
        seq2seq.check(complete(config))


@pytest.mark.parametrize("task", ["pairs", "denoise"])
def test_a_start_from_a_model_of_other_tokens_is_refused(task, tmp_path):
    """Its rows would stand for other words, and the run would begin without a sign of it."""
    other = tokenizer.train("char", ["abc"], 0)
    other.raw.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("{}")
    config = complete(ConfigDict(CONFIG))
    config.init.reference = str(tmp_path)
    words = "config.data.tokenizer='char' has other tokens than"
    if task == "denoise":
        config.data = dict(
            task="denoise", source="shakespeare", tokenizer="char", packing="noise", noise={}
        )
        words = r"config.init names .* other tokens \(.*than config.data.tokenizer \("
    with pytest.raises(ValueError, match=words):
        seq2seq.open_parts(config)


@pytest.mark.parametrize(
    ("field", "value"), [("noise", {"kind": "spans", "rate": 0.3}), ("tokens", 512), ("least", 16)]
)
def test_a_resume_with_other_batches_or_noise_is_refused(field, value, tmp_path):
    was = {"data": {"noise": {"kind": "spans", "rate": 0.15}, "tokens": 256, "least": 8}}
    (tmp_path / "config.json").write_text(json.dumps(was))
    (tmp_path / "run.json").write_text('{"fingerprint": {}}')
    start.refuse_other_run(tmp_path, ConfigDict(was), {})
    changed = ConfigDict({"data": {**was["data"], field: value}})
    with pytest.raises(ValueError, match=f"config.data.{field}.* is .*, but this run was started"):
        start.refuse_other_run(tmp_path, changed, {})


def test_no_pair_is_left_out_whose_target_alone_is_long():
    """Sources of up to 8 tokens, targets of up to 24: all are in the batches, at their own widths."""
    config = complete(ConfigDict(CONFIG))
    config.data.update(train="toy:copy", target_length=24, truncate=True, least=8)
    config.length = 8
    _, _, stream, held = seq2seq.open_parts(config)
    assert (stream.pairs.sizes() > 8).any()
    assert sum(len(members) for _, members, _ in stream.groups) == len(stream.pairs)
    wide = {stream.batch(step)["targets"].shape[1] for step in range(40)}
    assert max(wide) > 8 and stream.batch(0)["tokens"].shape[1] == 8
    assert sum(batch["rows"].sum() for batch in held["heldout"]["batches"]) == 500


def test_a_run_learns_averages_and_writes(tmp_path):
    config = complete(ConfigDict(CONFIG))
    config.data.test = ("heldout",)
    config.data.heldout = ()
    fitted = seq2seq.run(config, tmp_path)
    losses = [row["loss"] for row in log.read(tmp_path) if "loss" in row]
    assert np.mean(losses[-5:]) < losses[0] - 1.5
    found = json.loads((tmp_path / seq2seq.RESULTS).read_text())
    assert found["test/loss"] < 3.5 and found["test/chrf"] >= 0
    assert {"test/bleu", "test/rougeL", "test/exact"} <= set(found)
    assert fitted.metrics["test/loss"] == found["test/loss"]
    names = translate.names({"limit": 0})
    assert set(found) == {f"test/{name}" for name in names} and "bleu" in names
    assert translate.names({"limit": -1}) == ("loss", "perplexity")
    written = [json.loads(line) for line in (tmp_path / seq2seq.WRITTEN).read_text().splitlines()]
    assert len(written) == 500 and set(written[0]) == {"source", "written", "reference"}
    assert all(row["source"] == row["reference"] for row in written)
    scored = translate.scores([r["written"] for r in written], [r["reference"] for r in written])
    assert scored["chrf"] == pytest.approx(found["test/chrf"])
    kept = [checkpoint.load_params(folder)[0] for folder in checkpoint.folders(tmp_path)]
    assert len(kept) == 2
    mean = forms.flat(jax.tree.map(lambda a, b: (a + b) / 2, *kept))
    own, model, variables, known = checkpoint.load_run(average.written(tmp_path, config))
    averaged = forms.flat(variables["params"])
    assert averaged.keys() == mean.keys() and model.o == Options.of(config.model.to_dict())
    assert all(np.allclose(averaged[name], x, atol=1e-7) for name, x in mean.items())
    assert own.average == 2 and known.vocab <= 280
    assert sample.load(tmp_path / average.FOLDER).two
    converted = convert.source(str(tmp_path / average.FOLDER))
    assert forms.flat(converted.variables["params"]).keys() == mean.keys()
    assert average.written(tmp_path, ConfigDict({"average": 0})) == tmp_path
