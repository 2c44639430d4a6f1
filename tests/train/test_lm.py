"""The next-token loop with the real decoder: forms, meshes, experts, resuming, loading, fine-tuning."""

import re
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from models import families
from models.build import build, example
from models.options import Options
from tests.train import toy
from train import lm
from train.core import checkpoint, forms, losses, shard
from train.core.config import complete
from train.core.state import fresh, make_step

TINY = {"vocab": 32, "context": 16, "layers": 2, "width": 16, "heads": 4, "ff": 32}
DRY = {"drop_embed": 0.0, "drop_attn": 0.0, "drop_resid": 0.0, "drop_head": 0.0}


class Stream:
    """Batches without a data set."""

    def __init__(self, rows=8, length=8, segments=False):
        self.fingerprint = {"tokens": 1, "tokenizer": "x"}
        self.rows, self.length, self.segments = rows, length, segments

    def batch(self, step):
        r = np.random.default_rng(step)
        shape = (self.rows, self.length)
        out = {
            "tokens": r.integers(0, 32, shape).astype(np.int32),
            "targets": r.integers(0, 32, shape).astype(np.int32),
            "weights": (r.random(shape) < np.linspace(0.2, 1, self.rows)[:, None]).astype(
                np.float32
            ),
        }
        if self.segments:
            real = np.arange(self.length) < r.integers(2, self.length + 1, (self.rows, 1))
            out["segments"] = real.astype(np.int32)
            out["weights"] = out["weights"] * real
        return out


def options(family="gpt2", **more) -> Options:
    size = families.sizes(family)[0]
    return Options.of({**families.row(family, size), **TINY, **DRY, **more})


def task(o, **stream):
    return lm.make_task(ConfigDict({"mesh": {}}), o, None, Stream(**stream), None)


def gradients(o, micro=1, sizes=(1, 1, 1), params=None, **stream):
    """(loss, gradients under per-layer names) of the step itself, by a learning rate of 1."""
    made, tx = task(o, **stream), optax.sgd(1.0)
    where = shard.mesh(dict(zip(shard.AXES, sizes, strict=True)))
    with jax.set_mesh(where):

        def make():
            return fresh(made, tx, 0, False)

        kept = shard.state(jax.eval_shape(make), where)
        state = jax.jit(make, out_shardings=kept)()
        if params is not None:
            state.params = jax.device_put(
                forms.back(params, jax.device_get(state.params)), kept.params
            )
        before = jax.device_get(forms.apart(state.params))
        step = make_step(made, tx, seed=0, micro=micro, shardings=kept)
        state, metrics = step(state, (), shard.place(made.batches(0), where))
        for (keys, x), want in zip(
            jax.tree_util.tree_leaves_with_path(state.params),
            jax.tree.leaves(kept.params),
            strict=True,
        ):
            assert x.sharding.is_equivalent_to(want, x.ndim), shard.path(keys)
        after = jax.device_get(forms.apart(state.params))
    metrics = {name: float(x) for name, x in metrics.items()}
    return metrics, forms.flat(jax.tree.map(np.subtract, before, after)), before


def agree(a, b, tolerance=3e-6):
    assert a[0].keys() == b[0].keys()
    for name in a[0]:
        assert a[0][name] == pytest.approx(b[0][name], rel=1e-5, abs=1e-6), name
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        np.testing.assert_allclose(a[1][name], b[1][name], rtol=0, atol=tolerance, err_msg=name)
        assert np.abs(a[1][name]).max() > 0 or "k/bias" in name, name
    return True


@pytest.fixture(scope="module")
def plain():
    return gradients(options())


@pytest.mark.parametrize("policy", ["full", "dots"])
def test_remat_is_plain(plain, policy):
    assert agree(plain, gradients(options(remat=policy)))


def test_scanned_is_unrolled(plain):
    assert agree(plain, gradients(options(scan=True), params=plain[2]))


def test_accumulated_is_the_large_batch(plain):
    assert agree(plain, gradients(options(), micro=4))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_meshes_agree(plain, sizes):
    assert agree(plain, gradients(options(), sizes=sizes))


def test_scanned_and_cut_and_accumulated_at_once(plain):
    o = options(scan=True, remat="full")
    assert agree(plain, gradients(o, micro=2, sizes=(2, 1, 2), params=plain[2]))


def test_experts_add_their_balance_loss_over_real_tokens():
    o = options("moe", experts=4, kv_heads=2, balance=0.5)
    metrics, _, params = gradients(o, segments=True)
    batch = Stream(segments=True).batch(0)
    _, out = build(o).apply(
        {"params": params}, {n: batch[n] for n in ("tokens", "segments")}, method="features"
    )
    assert int(out["router"]["tokens"][0]) == (batch["segments"] > 0).sum()
    uneven = float(losses.balance(out["router"], 4))
    assert metrics["balance"] == pytest.approx(uneven, rel=1e-5)
    assert metrics["loss"] == pytest.approx(metrics["nll"] + 0.5 * uneven, rel=1e-5)
    cut, _, _ = gradients(o, micro=4, segments=True)
    assert cut["nll"] == pytest.approx(metrics["nll"], rel=1e-5)
    assert cut["balance"] == pytest.approx(uneven, rel=0.5)  # the named exception: an average
    quiet, _, _ = gradients(o.replace(balance=0.0), segments=True)
    assert "balance" not in quiet


def test_bfloat16_computes_over_float32_parameters(plain):
    metrics, grads, params = gradients(options(dtype="bfloat16"))
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
    assert metrics["loss"] == pytest.approx(plain[0]["loss"], rel=2e-2)
    assert metrics["loss"] != plain[0]["loss"]
    for name, x in plain[1].items():
        np.testing.assert_allclose(grads[name], x, atol=0.05 * np.abs(x).max() + 2e-3, err_msg=name)


def test_dropout_needs_its_key():
    made = task(options(drop_resid=0.1))
    assert made.dropout
    with pytest.raises(ValueError, match="dropout"):
        make_step(made, optax.sgd(1.0), seed=None)


def config(**changes) -> ConfigDict:
    model = families.row("gpt2", **{**TINY, "vocab": 384, "context": 32})
    c = ConfigDict(
        {
            "loop": "lm",
            "steps": 8,
            "batch": 8,
            "length": 16,
            "model": model,
            "data": {"source": "shakespeare", "tokenizer": "char"},
            "optim": {"name": "adamw", "lr": 3e-2, "warmup": 2, "clip": 1.0, "ema": 0.5},
            "mesh": {"data": 1, "fsdp": 2, "tensor": 1},
            "eval": {"every": 0, "batches": 2},
            "checkpoint": {"every": 3, "keep": 9},
            "init": {"checkpoint": "", "reference": ""},
            "log": {"every": 1, "tensorboard": False, "peak": 1e12},
        }
    )
    c.update_from_flattened_dict(changes)
    return complete(c)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("lm") / "run"
    return workdir, lm.run(config(), workdir)


def test_the_whole_loop_on_real_text(trained):
    workdir, fitted = trained
    found = fitted.metrics
    assert 2.0 < found["heldout/bits_per_character"] < 8.6
    assert found["heldout/loss"] < 5.9  # log 384 = 5.95
    assert (workdir / "tokenizer").is_dir()
    assert (workdir / "curves.png").stat().st_size > 1000


def test_no_more_of_the_held_out_works_is_laid_out_than_is_measured(tmp_path, monkeypatch):
    """Five per cent of a large store are gigabytes in rows."""
    made, heldout = [], lm.text.heldout
    monkeypatch.setattr(
        lm.text, "heldout", lambda *a, **k: made.append(heldout(*a, **k)) or made[0]
    )
    monkeypatch.setattr(lm.loop, "train", lambda *_: SimpleNamespace(stopped=True))
    lm.run(config(), tmp_path)
    assert (len(made[0]["batches"]), made[0]["tokens"]) == (2, 2 * 8 * 16)


def test_three_passages_are_printed(trained, tmp_path, capsys):
    workdir, _ = trained
    c = config()
    lm.run(c, workdir)  # finished: only the end is said again
    out = capsys.readouterr().out
    assert out.count("--- passage") == 3


def test_a_refused_resume_leaves_the_run_its_tokenizer(trained):
    workdir, _ = trained
    before = (workdir / "tokenizer" / "tokenizer.json").read_bytes()
    with pytest.raises(ValueError, match="the data's tokenizer is"):
        lm.run(config(**{"data.tokenizer": "byte"}), workdir)
    assert (workdir / "tokenizer" / "tokenizer.json").read_bytes() == before


def test_resumed_is_uninterrupted_by_hash(trained, tmp_path):
    workdir, fitted = trained
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (workdir / "checkpoints" / "00000003").rename(folder / "00000003")
    again = lm.run(config(), tmp_path / "run")
    assert toy.digest(again.state) == toy.digest(fitted.state)
    (folder / "00000003").rename(workdir / "checkpoints" / "00000003")


@pytest.mark.parametrize("scan", [False, True])
def test_load_run_gives_the_averaged_model_and_the_tokenizer(trained, scan):
    workdir, fitted = trained
    c, model, variables, tokenizer = checkpoint.load_run(workdir, scan=scan)
    assert c.to_dict() == {
        **config().to_dict(),
        "model": {**config().model.to_dict(), "scan": scan},
    }
    text = "To be, or not to be"
    tokens = tokenizer.encode(text)[None]
    assert tokenizer.decode(tokens[0]) == text
    ours = build(Options.of(config().model.to_dict())).apply(
        jax.device_get(fitted.variables()), {"tokens": tokens}
    )
    theirs = model.apply(variables, {"tokens": tokens})
    np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=1e-5)
    raw = checkpoint.load_run(workdir, averaged=False)[2]
    got, want = forms.flat(raw["params"]), forms.flat(fitted.state.params)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    step = checkpoint.load_run(workdir / "checkpoints" / "00000003")[2]
    assert toy.digest(step) != toy.digest(checkpoint.load_run(workdir)[2])


def test_fine_tuning_from_a_checkpoint(trained, tmp_path):
    workdir, fitted = trained
    c = config(**{"init.checkpoint": str(workdir), "optim.lr": 1e-9, "steps": 2, "seed": 5})
    tuned = lm.run(c, tmp_path)
    assert tuned.metrics["loss"] < 4.6  # fresh weights start at 5.95
    want, got = forms.flat(fitted.state.ema), forms.flat(tuned.state.params)
    for name in want:
        np.testing.assert_allclose(want[name], got[name], atol=1e-6, err_msg=name)


def test_a_start_from_other_tokens_is_refused(trained, tmp_path):
    workdir, _ = trained
    other = "byte" if config().data.tokenizer != "byte" else "char"
    c = config(**{"init.checkpoint": str(workdir), "data.tokenizer": other, "model.vocab": 400})
    with pytest.raises(ValueError, match="config.init names .*, which has other tokens"):
        lm.check(c)
    gone = config(**{"init.checkpoint": str(tmp_path / "gone")})
    assert lm.check(gone), "a resume can do without it"
    with pytest.raises(FileNotFoundError, match="gone"):
        lm.run(gone, tmp_path / "run")


def test_a_tokenizer_that_is_too_large_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"--config.model.vocab=\d+"):
        lm.run(config(**{"model.vocab": 32}), tmp_path)


def test_check_allocates_nothing():
    plan, batch = lm.check(config())
    assert batch["tokens"].shape == (8, 16)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(plan.abstract))
    assert any("blocks/0/attn/q/kernel" in line for line in plan.lines())


def test_fine_tuning_from_reference_weights(tmp_path, capfd):
    from models import interop

    o = Options.of(config().model.to_dict())
    params = build(o).init(jax.random.key(9), example(o))["params"]
    interop.export(tmp_path / "reference", o, params)
    c = config(**{"init.reference": str(tmp_path / "reference"), "optim.lr": 1e-9, "steps": 1})
    tuned = lm.run(c, tmp_path / "run")
    assert "starting from the parameters of" in capfd.readouterr().err
    got = forms.flat(tuned.state.params)
    for name, x in forms.flat(params).items():
        np.testing.assert_allclose(x, got[name], atol=1e-6, err_msg=name)
    wide = config(**{"init.reference": str(tmp_path / "reference"), "model.vocab": 400})
    with pytest.raises(ValueError, match="embed/tokens/embedding with shape"):
        lm.run(wide, tmp_path / "wide")


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_device_holds_the_activations_of_all_rows(family, sizes):
    o = options(family, context=24)
    made, tx = task(o, rows=16, length=24), optax.sgd(1.0)
    where = shard.mesh(dict(zip(shard.AXES, sizes, strict=True)))
    with jax.set_mesh(where):
        abstract = jax.eval_shape(lambda: fresh(made, tx, 0, False))
        kept = shard.state(abstract, where)
        placed = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, kept
        )
        step = make_step(made, tx, seed=0, shardings=kept)
        text = step.lower(placed, (), shard.place(made.batches(0), where)).compile().as_text()
    rows = {int(n) for n in re.findall(r"f32\[(\d+),24,\d+\]", text)}
    assert max(rows) == 16 // (sizes[0] * sizes[1])
