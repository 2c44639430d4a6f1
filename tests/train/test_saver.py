"""What is kept outlives damage, rollbacks, full disks and hands in the run's folder."""

import errno
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.train import test_anomaly as spoiling
from tests.train import toy
from tests.train.test_best import held, watched
from train.core import average, checkpoint, integrity, saver, shard
from train.core.fit import fit
from train.core.saver import SaveFailed


def damage(folder):
    """Another content of the same size in the largest file."""
    file = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def steps(workdir):
    return sorted(p.name for p in (workdir / "checkpoints").iterdir())


def train(workdir, **changes):
    c = toy.config(**changes)
    return fit(c, toy.task(c), workdir)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps, saved after three and six."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(workdir, **{"steps": 6, "checkpoint.every": 3})
    return workdir


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def test_a_damaged_later_checkpoint_does_not_push_out_the_good_one(run):
    damage(run / "checkpoints" / "00000006")
    train(run, **{"steps": 5, "checkpoint.keep": 1})
    assert steps(run) == ["00000005", "00000006"]
    assert int(train(run, **{"steps": 5, "checkpoint.keep": 1}).state.step) == 5


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [4]), (2, [3, 4]), (3, [2, 3, 4]), (9, [1, 2, 3, 4])]
)
def test_as_many_are_kept_as_are_asked_for(tmp_path, keep, left):
    kept = saver.Checkpoints(tmp_path, keep)
    for step in range(1, 5):
        folder = tmp_path / "checkpoints" / f"{step:08d}"
        (folder / "state").mkdir(parents=True)
        (folder / "state" / "x").write_text("x")
        integrity.write(folder)
        for old in kept._superseded(folder):
            integrity.remove(old)
    kept.close()
    assert [int(name) for name in steps(tmp_path)] == left


def test_a_disk_that_cannot_read_a_checkpoint_costs_that_one(run, monkeypatch, capfd):
    real = integrity.digest

    def fails(path):
        if "00000006" in str(path):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path)

    monkeypatch.setattr(integrity, "digest", fails)
    assert int(train(run, steps=4).state.step) == 4
    said = capfd.readouterr().err
    assert "00000006 is damaged and not used: config.json cannot be read: Input/output" in said


@pytest.mark.parametrize(
    "files",
    [
        {}, {"a": {"size": "x", "xxh3_128": 1}}, {"a": {"size": float("inf"), "xxh3_128": ""}},
        {"a": {"size": [], "xxh3_128": ""}}, {"a" * 5000: {"size": 1, "xxh3_128": ""}},
    ],
)  # fmt: skip
def test_a_manifest_of_nonsense_is_damage(tmp_path, files):
    (tmp_path / integrity.NAME).write_text(json.dumps({"files": files}))
    assert len(integrity.problems(tmp_path)) == 1


def test_what_is_no_checkpoint_is_left_alone(run):
    folder = run / "checkpoints"
    os.rename(folder / "00000006", folder / "6")
    for name in ("²", "2026"):
        (folder / name).mkdir()
    (folder / "00000004").write_text("a file")
    os.symlink(run / "gone", folder / "00000005")
    train(run, **{"steps": 5, "checkpoint.every": 1})
    assert steps(run) == ["00000003", "00000004", "00000005", "2026", "6", "²"]
    assert not (folder / "00000005").is_symlink()


def test_of_a_checkpoint_that_is_a_link_the_link_is_removed(run, tmp_path):
    shutil.move(run / "checkpoints" / "00000003", tmp_path / "far")
    os.symlink(tmp_path / "far", run / "checkpoints" / "00000003")
    train(run, **{"steps": 7, "checkpoint.keep": 2})
    assert steps(run) == ["00000006", "00000007"] and (tmp_path / "far" / "state").is_dir()


def test_a_folder_of_checkpoints_that_was_removed_is_made_again(tmp_path):
    def batches(step):
        if step == 2:
            os.rename(tmp_path / "checkpoints", tmp_path / "gone")
        return toy.batch(0, step, 8, 4)

    c = toy.config(**{"steps": 4, "checkpoint.every": 1})
    fit(c, toy.task(c, batches=batches), tmp_path)
    assert steps(tmp_path)[-1] == "00000004"


def rolled_back(workdir, values):
    """A run that is evaluated every step, and goes back to its beginning at the fourth batch."""
    c = spoiling.policy("rollback", **{"steps": 6, "eval.every": 1, "checkpoint.every": 100})
    with c.unlocked():
        c.best = dict(metric="valid/score", mode="max", patience=0)
    seen = iter(values)
    task = spoiling.task(c, {3})
    object.__setattr__(task, "evaluators", {"valid": lambda variables: {"score": next(seen)}})
    fit(c, task, workdir)
    return held(workdir)


@pytest.mark.parametrize(
    ("values", "best"), [([1, 2, 9, 1, 5, 2, 3, 1, 1], 3), ([1, 2, 4, 1, 5, 2, 3, 1, 1], 2)]
)
def test_after_a_rollback_what_is_kept_is_the_best_that_was_seen(tmp_path, values, best):
    assert rolled_back(tmp_path, values) == [best]
    assert json.loads((tmp_path / "best.json").read_text())["kept"] == [best, max(values)]


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"metric": "valid/sc', "is not valid JSON"), ("", "is not valid JSON"),
     ('{"metric": "valid/loss", "history": [[1, 99.0]]}', "it is of valid/loss"),
     ('{"history": [[1, null]]}', "forgotten"), ('{"history": 3}', "forgotten")],
)  # fmt: skip
def test_a_best_json_that_is_no_use_is_said_and_the_run_goes_on(tmp_path, capfd, text, words):
    config, task = watched([1], steps=1)
    fit(config, task, tmp_path)
    (tmp_path / "best.json").write_text(text)
    config, task = watched([1, 3], steps=2)  # step 1 is evaluated again: nothing is known of it
    fit(config, task, tmp_path)
    assert words in capfd.readouterr().err and held(tmp_path) == [2]


def test_the_best_that_found_no_room_is_told_by_the_exit(tmp_path, monkeypatch):
    real, full = saver.Checkpoints._room, [True]

    def room(self, state):
        if self.workdir.name == "best" and full[0]:
            raise OSError(errno.ENOSPC, "No space left: it needs 9 bytes, 1 are free")
        return real(self, state)

    monkeypatch.setattr(saver.Checkpoints, "_room", room)
    config, task = watched([1, 5, 2], steps=3)
    with pytest.raises(SaveFailed, match="the best checkpoint: saving step 3 failed"):
        fit(config, task, tmp_path)
    assert held(tmp_path) == [] and steps(tmp_path) == ["00000003"]
    full[0] = False
    config, task = watched([2, 1], steps=4)
    fit(config, task, tmp_path)  # the next one stands in for what found no room
    assert held(tmp_path) == [4]


def test_a_full_disk_for_best_json_ends_nothing(tmp_path, monkeypatch, capfd):
    real = Path.write_text

    def write(self, *args, **kwargs):
        if self.name.startswith("best.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", write)
    config, task = watched([1, 5, 2], steps=3)
    assert int(fit(config, task, tmp_path).state.step) == 3 and held(tmp_path) == [2]
    assert "best.json cannot be written: No space left on device" in capfd.readouterr().err


def averaged(workdir, count, say):
    c = toy.config()
    where = shard.mesh(c.mesh)
    with jax.set_mesh(where):
        params = jax.jit(lambda: toy.init(jax.random.key(0))[0])()
        place = shard.params(params, where)
        return average.last(workdir, count, {"params": jax.device_put(params, place)}, say)


def test_a_damaged_checkpoint_is_no_part_of_the_mean(run):
    damage(run / "checkpoints" / "00000003")
    said = []
    mean = averaged(run, 2, said.append)["params"]
    assert any("00000003 is damaged and not averaged" in line for line in said)
    want, _ = checkpoint.load_params(run / "checkpoints" / "00000006", averaged=False)
    table = lambda tree: np.asarray(tree["embed"]["tokens"]["embedding"])
    np.testing.assert_array_equal(table(mean), table(want))


def test_a_mean_that_finds_no_room_is_told(run, monkeypatch):
    def room(self, state):
        raise OSError(errno.ENOSPC, "No space left: it needs 9 bytes, 1 are free")

    monkeypatch.setattr(saver.Checkpoints, "_room", room)
    with pytest.raises(SaveFailed, match="the mean of the last checkpoints"):
        averaged(run, 2, lambda text: None)
