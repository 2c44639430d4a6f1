"""What is written can be read, in either form and on any mesh, and damage is not."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import families
from models.build import build, example
from models.options import Options
from tests.train import toy
from train.core import checkpoint, forms, integrity, shard
from train.core.config import OPTIMIZERS
from train.core.fit import fit
from train.core.plan import plan
from train.core.saver import Checkpoints
from train.core.state import make_step


def planned(c=None, **changes):
    c = c or toy.config()
    task = toy.task(c, **changes)
    return plan(c, task), task


def saved(workdir, p, step=1, state=None, **options):
    state = state or jax.jit(p.fresh, out_shardings=p.shardings)()
    kept = Checkpoints(workdir, describe=lambda folder: None, **options)
    kept.save(state, step, wait=True)
    kept.close()
    assert not kept.failed
    return state


def restored(workdir, p):
    folder = checkpoint.folders(workdir)[-1]
    return checkpoint.restore(folder, p.abstract, p.shardings, p.mesh, p.rules)


def test_the_whole_state_comes_back(tmp_path):
    p, _ = planned(toy.config(**{"optim.ema": 0.9, "mesh.fsdp": 2, "mesh.tensor": 2}))
    state = saved(tmp_path, p)
    again = restored(tmp_path, p)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert toy.digest(again) == toy.digest(state)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(p.shardings), strict=True):
        assert a.sharding.is_equivalent_to(b, a.ndim)


@pytest.mark.parametrize("before", [False, True])
def test_a_run_may_change_between_stacked_and_apart(tmp_path, before):
    def of(scan):
        return planned(init=lambda key: toy.init(key, scan))

    (p, task), (q, _) = of(before), of(not before)
    state = jax.jit(p.fresh, out_shardings=p.shardings)()
    state, _ = make_step(task, p.tx, seed=0)(state, (), toy.batch(0, 0))
    state = saved(tmp_path, p, state=state)
    other = restored(tmp_path, q)
    moments = lambda s: forms.flat(forms.apart(forms.nest({"p": s.params, "o": s.opt_state})))
    a, b = moments(state), moments(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    held = forms.flat(checkpoint.inside(checkpoint.folders(tmp_path)[-1]))
    assert "params/blocks/1/mlp/up/kernel" in held
    assert toy.digest(restored(tmp_path, p)) == toy.digest(state)


@pytest.mark.parametrize(("a", "b"), [((8, 1, 1), (1, 2, 1)), ((1, 1, 1), (2, 2, 2))])
def test_another_mesh_reads_the_same_numbers(tmp_path, a, b):
    of = lambda sizes: planned(
        toy.config(**{f"mesh.{axis}": n for axis, n in zip(shard.AXES, sizes, strict=True)})
    )[0]
    state = saved(tmp_path, of(a))
    assert toy.digest(restored(tmp_path, of(b))) == toy.digest(state)


def test_saving_is_safe_from_donation(tmp_path):
    p, task = planned()
    step = make_step(task, p.tx, seed=0, shardings=p.shardings)
    state = jax.jit(p.fresh, out_shardings=p.shardings)()
    kept = Checkpoints(tmp_path, describe=lambda folder: None)
    expected = toy.digest(state)
    kept.save(state, 0)
    for i in range(5):
        state, _ = step(state, (), toy.batch(0, i))
    kept.close()
    assert toy.digest(restored(tmp_path, p)) == expected != toy.digest(state)


def test_keeps_the_newest_and_clears_the_unfinished(tmp_path):
    p, _ = planned()
    state = jax.jit(p.fresh)()
    kept = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        kept.save(state, step)
    kept.close()
    assert [f.name for f in checkpoint.folders(tmp_path)] == ["00000002", "00000003"]
    torn = tmp_path / "checkpoints" / "00000004" / "state"
    torn.mkdir(parents=True)
    assert [f.name for f in checkpoint.folders(tmp_path)] == ["00000002", "00000003"]
    Checkpoints(tmp_path).close()
    assert not torn.parent.exists()


def test_dtype_shape_and_name_mismatches_are_refused_by_name(tmp_path):
    p, _ = planned()
    saved(tmp_path, p)
    folder = checkpoint.folders(tmp_path)[-1]

    def check(init, words, **changes):
        q, _ = planned(toy.config(**changes), init=init)
        with pytest.raises(ValueError, match=words):
            checkpoint.restore(folder, q.abstract, q.shardings, q.mesh, q.rules)

    def half(key):
        params, extra = toy.init(key)
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), extra

    def wide(key):
        params, extra = toy.init(key)
        params["embed"]["tokens"]["embedding"] = jnp.zeros((toy.V, 2 * toy.D))
        return params, extra

    def more(key):
        params, extra = toy.init(key)
        return {**params, "score": {"bias": jnp.zeros(3)}}, extra

    check(half, "params/.* as float32; this run needs bfloat16")
    check(wide, r"params/embed/tokens/embedding with shape \(16, 8\); this run needs \(16, 16\)")
    check(more, "lacks params/score/bias")
    check(toy.init, "another optimiser", **{"optim.name": "sgd"})


def damage(folder, how):
    data = max(
        (f for f in (folder / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size
    )
    raw = bytearray(data.read_bytes())
    if how == "flip":
        raw[len(raw) // 2] ^= 1
        data.write_bytes(raw)
    elif how == "truncate":
        data.write_bytes(raw[:-7])
    elif how == "remove":
        data.unlink()
    elif how == "manifest":
        (folder / integrity.NAME).write_text("{}")
    return data.name


@pytest.mark.parametrize("how", ["flip", "truncate", "remove", "manifest"])
def test_damage_is_named_and_the_step_before_is_used(tmp_path, how):
    p, _ = planned()
    state = jax.jit(p.fresh)()
    kept = Checkpoints(tmp_path)
    for step in (1, 2):
        kept.save(state, step, wait=True)
    kept.close()
    name = damage(tmp_path / "checkpoints" / "00000002", how)
    said = []
    kept = Checkpoints(tmp_path, say=said.append)
    assert kept.newest().name == "00000001"
    assert "00000002 is damaged" in said[0]
    assert name in said[0] or how == "manifest"
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.find(tmp_path / "checkpoints" / "00000002")
    assert checkpoint.find(tmp_path, said.append).name == "00000001"
    damage(tmp_path / "checkpoints" / "00000001", how)
    with pytest.raises(ValueError, match="every checkpoint"):
        kept.newest()
    kept.close()


def test_a_failed_save_is_said_and_the_next_one_works(tmp_path, monkeypatch):
    p, _ = planned()
    state = jax.jit(p.fresh)()
    said = []
    kept = Checkpoints(tmp_path, say=said.append)
    kept.save(state, 1, wait=True)

    def full(folder, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(integrity, "write", full)
    kept.save(state, 2, wait=True)
    assert "step 2" in kept.failed
    assert "disk is full" in said[-1]
    assert [f.name for f in checkpoint.folders(tmp_path)] == ["00000001"]
    assert not (tmp_path / "checkpoints" / "00000002").exists()
    monkeypatch.undo()
    kept.save(state, 3, wait=True)
    assert not kept.failed
    kept.close()
    assert [f.name for f in checkpoint.folders(tmp_path)] == ["00000001", "00000003"]


def test_a_run_whose_last_save_failed_says_so(tmp_path, monkeypatch):
    def full(folder, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(integrity, "write", full)
    c = toy.config(steps=2)
    with pytest.raises(OSError, match="step 2 failed: the disk is full"):
        fit(c, toy.task(c), tmp_path)


def test_a_checkpoint_describes_itself(tmp_path):
    c = toy.config(steps=2, phases=((1, 4, 8),))
    task = toy.task(c, assets=lambda folder: (folder / "tokenizer").mkdir())
    fit(c, task, tmp_path)
    folder = checkpoint.folders(tmp_path)[-1]
    config = checkpoint.read_config(folder)
    assert config == c.to_dict()
    run = json.loads((folder / "run.json").read_text())
    assert run["fingerprint"] == {"tokens": 1000, "tokenizer": "abc"}
    assert run["versions"]["jax"] == jax.__version__
    assert (folder / "tokenizer").is_dir()


def test_no_checkpoint_is_a_plain_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoint.find(tmp_path)


def test_nested_forms_survive_odd_trees():
    odd = {"blocks": {"a": np.zeros((2, 3)), "b": np.zeros((1,))}}
    assert forms.apart(odd).keys() == {"blocks"}
    assert "a" in forms.apart(odd)["blocks"], "unequal leading axes are left as they are"
    scalar = {"blocks": {"count": np.zeros(())}}
    assert "count" in forms.apart(scalar)["blocks"]
    assert forms.nest((optax.EmptyState(), {"x": {}})) == {}


def test_starting_from_a_checkpoint_takes_parameters_only(tmp_path, capfd):
    first = toy.config(steps=3)
    done = fit(first, toy.task(first), tmp_path / "a")
    c = toy.config(
        **{"steps": 1, "seed": 7, "init.checkpoint": str(tmp_path / "a"), "optim.lr": 0.0}
    )

    def init(key):
        params, extra = toy.init(key, scan=True)
        return {**params, "score": {"bias": jnp.ones(3)}}, extra

    out = fit(c, toy.task(c, init=init), tmp_path / "b")
    assert int(out.state.step) == 1
    want, have = forms.flat(done.state.params), forms.flat(forms.apart(out.state.params))
    for name in want:
        np.testing.assert_array_equal(want[name], have[name], err_msg=name)
    np.testing.assert_array_equal(have["score/bias"], 1)
    assert "1 parameters start fresh: score/bias" in capfd.readouterr().err
    wrong = lambda key: ({**toy.init(key)[0], "norm": {"scale": jnp.ones(8)}}, {})
    with pytest.raises(ValueError, match="no parameter norm/scale"):
        fit(c, toy.task(c, init=wrong), tmp_path / "c")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_is_written_the_same_in_both_forms(name):
    row = {**families.row("gpt2", "124m"), "vocab": 32, "context": 8, "layers": 3, "width": 128}
    written = []
    for scan in (False, True):
        o = Options.of({**row, "heads": 4, "ff": 256, "scan": scan})
        c = toy.config(**{"optim.name": name, "optim.freeze": "positions", "optim.ema": 0.9})
        c.optim.multipliers = ((r"blocks/0/", 0.5),)
        p, _ = planned(c, init=lambda key, o=o: (build(o).init(key, example(o))["params"], {}))
        shapes = forms.stored_shapes(p.abstract, p.mesh)
        written.append({n: (x.shape, x.dtype) for n, x in forms.flat(shapes).items()})
        again = jax.eval_shape(lambda x, p=p: forms.joined(x, p.abstract), shapes)
        same = jax.tree.map(
            lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), again, p.abstract
        )
        assert all(jax.tree.leaves(same))
    assert "params/blocks/2/attn/q/kernel" in written[0]
    weights = [{n: x for n, x in w.items() if not n.startswith("train/")} for w in written]
    assert weights[0] == weights[1]
    # Adafactor keeps one vmapped state per depth: its moments stay in the form that made them.
    assert (written[0] == written[1]) == (name != "adafactor")


def test_a_save_that_is_waited_for_is_tried_once_more(tmp_path, monkeypatch):
    p, _ = planned()
    state, said, tries = jax.jit(p.fresh)(), [], []
    kept = Checkpoints(tmp_path, say=said.append)
    finish = kept._finish

    def late(folder, running):
        tries.append(folder.name)
        finish(folder, running)
        if len(tries) == 1:
            raise TimeoutError("a signal did not come")

    monkeypatch.setattr(kept, "_finish", late)
    kept.save(state, 3, wait=True)
    assert tries == ["00000003"] * 2 and not kept.failed and kept.saved == 3
    assert said[0].startswith("saving step 3 failed: TimeoutError: a signal did not come")
    assert said[1] == "trying once more to save step 3"
    assert kept.newest().name == "00000003"
    kept.close()
