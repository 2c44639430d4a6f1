"""A damaged checkpoint is found, named and passed over, whichever file it is in; full disks; stalls."""

import errno
import shutil
import threading
import time
from types import FunctionType, SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from tests.train import toy
from train.core import checkpoint, integrity, saver
from train.core.fit import fit
from train.core.saver import Checkpoints, SaveFailed
from train.core.watchdog import Watchdog

OLD, NEW = "00000003", "00000006"


def assets(folder):
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text('{"model": "byte"}')


def config(**changes):
    return toy.config(**{"steps": 6, "checkpoint.every": 3, "optim.ema": 0.9, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    c = config()
    fit(c, toy.task(c, assets=assets), workdir)
    return workdir


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def files(workdir, step=NEW):
    folder = workdir / "checkpoints" / step
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# One file of every kind; names with a hash in them by their folder.
KINDS = {
    "manifest": integrity.NAME,
    "config": "config.json",
    "provenance": "run.json",
    "tokenizer": "tokenizer/tokenizer.json",
    "arrays of params": "state/params/ocdbt.process_0/d/",
    "arrays of train": "state/train/ocdbt.process_0/d/",
    "arrays of ema": "state/ema/ocdbt.process_0/d/",
    "arrays of guard": "state/guard/ocdbt.process_0/d/",
    "array metadata": "state/params/array_metadatas/",
    "array index": "state/params/manifest.ocdbt",
    "tree": "state/params/_METADATA",
    "shardings": "state/params/_sharding",
    "checkpoint": "state/_CHECKPOINT_METADATA",
    "commit mark": "state/commit_success.txt",
    "format mark": "state/orbax.checkpoint",
}


def of_kind(workdir, kind, step=NEW):
    found = [name for name in files(workdir, step) if name.startswith(KINDS[kind])]
    assert found, f"no {kind} among {files(workdir, step)}"
    return max(found, key=lambda name: (workdir / "checkpoints" / step / name).stat().st_size)


def test_every_file_is_of_a_kind_that_is_tried(run):
    """By its last name, or as one of the data files and array metadata of Orbax."""
    known = {start.rsplit("/", 1)[-1] for start in KINDS.values()} - {""}
    for name in files(run):
        parts = name.split("/")
        assert parts[-1] in known or {"d", "ocdbt.process_0", "array_metadatas"} & set(parts), name


def damage(path, how, at=0.5, bit=0):
    raw = bytearray(path.read_bytes())
    if how != "remove" and not raw:  # an empty file has no bits to flip
        path.write_bytes(b"?")
    elif how == "flip":
        raw[min(len(raw) - 1, int(at * len(raw)))] ^= 1 << bit
        path.write_bytes(raw)
    elif how == "truncate":
        path.write_bytes(raw[: len(raw) // 2])
    elif how == "remove":
        path.unlink()


@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_and_the_step_before_it_used(copy, kind, how):
    name = of_kind(copy, kind)
    damage(copy / "checkpoints" / NEW / name, how)
    said = []
    kept = Checkpoints(copy, say=said.append)
    assert kept.newest().name == OLD
    kept.close()
    assert f"checkpoint {NEW} is damaged and not used: {name}" in said[0]
    assert checkpoint.find(copy, said.append).name == OLD
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.find(copy / "checkpoints" / NEW)
    assert (copy / "checkpoints" / NEW).is_dir(), "evidence is not deleted"


def test_any_bit_of_any_file_counts(copy):
    folder, draw = copy / "checkpoints" / NEW, np.random.default_rng(7)
    names = files(copy)
    assert not integrity.problems(folder)
    for _ in range(250):
        name = names[draw.integers(len(names))]
        path, before = folder / name, (folder / name).read_bytes()
        if not before:
            continue
        at, bit = float(draw.random()), int(draw.integers(8))
        damage(path, "flip", at, bit)
        found = integrity.problems(folder)
        assert found and found[0].startswith(name), (name, at, bit, found)
        path.write_bytes(before)
    assert not integrity.problems(folder)


def test_any_bit_of_the_manifest_counts(copy):
    path = copy / "checkpoints" / NEW / integrity.NAME
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        raw = bytearray(whole)
        raw[at] ^= 1 << (at % 8)
        path.write_bytes(raw)
        found = integrity.problems(path.parent)
        assert found and found[0].startswith(integrity.NAME), (at, bytes(raw[at - 9 : at + 9]))


def test_all_damaged_is_an_error_and_the_run_does_not_begin_anew(copy):
    for step in (OLD, NEW):
        damage(copy / "checkpoints" / step / of_kind(copy, "arrays of params", step), "flip")
    c = config(steps=8)
    with pytest.raises(
        ValueError, match="every checkpoint of run is damaged: state/params"
    ) as error:
        fit(c, toy.task(c), copy)
    assert len(str(error.value).splitlines()) <= 3
    assert (copy / "checkpoints" / NEW).is_dir()


def test_the_run_goes_on_from_the_good_one_to_the_same_bits(run, copy, capfd):
    damage(copy / "checkpoints" / NEW / of_kind(copy, "arrays of train"), "flip")
    c = config()
    state = fit(c, toy.task(c, assets=assets), copy).state
    said = capfd.readouterr().err
    assert f"checkpoint {NEW} is damaged and not used: state/train/" in said
    assert "resuming after step 3" in said
    whole = checkpoint.load_params(run / "checkpoints" / NEW, averaged=False)[0]
    again = checkpoint.load_params(copy / "checkpoints" / NEW, averaged=False)[0]
    assert toy.digest(again) == toy.digest(whole)
    assert not integrity.problems(copy / "checkpoints" / NEW)
    assert int(state.step) == 6


def test_how_much_is_verified(copy, monkeypatch):
    folder = copy / "checkpoints" / NEW
    name = of_kind(copy, "arrays of params")
    damage(folder / name, "flip")
    found = lambda verify: bool(integrity.problems(folder, verify))
    assert [found(verify) for verify in ("always", "auto", "never")] == [True, True, False]
    monkeypatch.setattr(integrity, "MUCH", 10)
    assert [found(verify) for verify in ("always", "auto", "never")] == [True, False, False]
    (folder / name).unlink()
    assert [found(verify) for verify in ("always", "auto", "never")] == [True, True, False]
    c = config(**{"checkpoint.keep": 3})
    c.checkpoint.verify = "always"
    assert int(fit(c, toy.task(c, assets=assets), copy).state.step) == 6


def test_a_manifest_of_an_older_version_is_read(copy):
    import json

    path = copy / "checkpoints" / NEW / integrity.NAME
    held = json.loads(path.read_text())
    path.write_text(json.dumps({"files": held["files"]}))
    assert not integrity.problems(path.parent)


def test_a_killed_save_is_not_a_damaged_one(copy):
    folder = copy / "checkpoints" / NEW
    (folder / integrity.NAME).unlink()
    (folder / saver.SAVING).touch()
    half = folder.with_name("00000001" + integrity.REMOVED)
    half.mkdir()
    said = []
    kept = Checkpoints(copy, say=said.append)
    assert kept.newest().name == OLD
    kept.close()
    assert said == [f"checkpoint {NEW} was never finished and is cleared away"]
    assert not folder.exists() and not half.exists()


def test_there_must_be_room_before_a_save_starts(tmp_path, monkeypatch):
    c = config(**{"steps": 8, "checkpoint.every": 2})
    free, said = {"bytes": 10**12}, []
    usage = lambda path: SimpleNamespace(free=free["bytes"])
    monkeypatch.setattr(saver.shutil, "disk_usage", usage)

    def batches(step):
        free["bytes"] = 10 if 2 <= step < 7 else 10**12
        said.append(sorted(p.name for p in (tmp_path / "checkpoints").iterdir()))
        return toy.batch(0, step)

    fit(c, toy.task(c, batches=batches), tmp_path)
    assert said[-1] == ["00000002"], "nothing was started, nothing is left over"
    assert [p.name for p in checkpoint.folders(tmp_path)] == ["00000002", "00000008"]


def test_the_last_save_decides_the_status(tmp_path, monkeypatch, capfd):
    usage = lambda path: SimpleNamespace(free=10)
    monkeypatch.setattr(saver.shutil, "disk_usage", usage)
    c = config(steps=2)
    with pytest.raises(
        SaveFailed, match=r"step 2 failed: the disk is full \(.* 10 are free\)"
    ) as e:
        fit(c, toy.task(c), tmp_path)
    assert e.value.status == 74
    assert "older checkpoints are kept and training goes on" in capfd.readouterr().err


def test_a_failed_save_is_said_at_the_next_step(tmp_path, monkeypatch, capfd):
    def full(folder, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(integrity, "write", full)
    c = config(**{"steps": 8, "checkpoint.every": 4, "log.every": 8})
    seen = []

    def batches(step):
        if step == 6:
            time.sleep(1.5)  # the save of step 4 fails in the background
        if step == 7:
            seen.append(capfd.readouterr().err)
        return toy.batch(0, step)

    with pytest.raises(SaveFailed):
        fit(c, toy.task(c, batches=batches), tmp_path)
    assert "saving step 4 failed: the disk is full" in seen[0]


def test_metrics_wait_for_room(tmp_path, monkeypatch, capfd):
    from train.core.log import Logger

    options = SimpleNamespace(tensorboard=False, wandb=False)
    with Logger(tmp_path, options, 3) as logger:
        logger.metrics(1, {"loss": 1.0})
        real = logger._file

        def full(data):
            raise OSError(28, "No space left on device")

        logger._file = SimpleNamespace(write=full, close=real.close)
        logger.metrics(2, {"loss": 1.0})
        logger.metrics(3, {"loss": 1.0})
        logger._file = real
    said = capfd.readouterr().err
    assert said.count("metrics.jsonl cannot be written: No space left on device") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_the_watchdog_dumps_all_stacks_and_leaves(tmp_path, capfd):
    left = threading.Event()
    codes = []

    def leave(code):
        codes.append(code)
        left.set()

    with Watchdog(0.4, tmp_path, leave=leave) as dog:
        for _ in range(8):
            dog.beat(read=True)
            time.sleep(0.1)
        with dog.off():
            time.sleep(1.0)
        assert not codes, "neither steps nor an evaluation are a stall"
        assert left.wait(5)
    assert codes == [75]
    stacks = (tmp_path / "stalled-0.txt").read_text()
    assert "test_the_watchdog_dumps_all_stacks_and_leaves" in stacks
    assert "leaving with status 75" in capfd.readouterr().err


def test_the_watchdog_knows_slow_steps(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    dog = Watchdog(300, tmp_path)
    for _ in range(5):
        dog.beat(read=True)
        now[0] += 60
    assert dog.limit() == 600
    with dog.off():
        now[0] += 5000
    dog.beat(read=True)
    assert dog.limit() == 600
    assert Watchdog(300, tmp_path).limit() == 300


def test_a_stalled_fit_is_ended_and_a_slow_evaluation_is_not(tmp_path, monkeypatch):
    ended, slept = threading.Event(), []
    monkeypatch.setattr(Watchdog, "_end", lambda self, waited: ended.set())
    c = config(**{"eval.every": 2, "steps": 4})
    c.watchdog = 0.5

    def slow(variables):
        time.sleep(1.2)
        slept.append(ended.is_set())
        return {}

    def batches(step):
        if step == 3:
            assert ended.wait(5)
        return toy.batch(0, step)

    fit(c, toy.task(c, evaluators={"held": slow}, batches=batches), tmp_path)
    assert slept == [False, True]


def test_a_run_without_the_new_sections_is_still_a_run(tmp_path):
    c = toy.config(steps=2)
    assert "anomaly" not in c and "watchdog" not in c
    assert int(jax.device_get(fit(c, toy.task(c), tmp_path).state.step)) == 2


def test_what_ends_a_thread_of_orbax_is_said_once_and_a_thread_of_ours_in_full(capsys):
    def failing():
        raise OSError("No space left on device")

    def run(module):
        body = FunctionType(failing.__code__, {"__name__": module, "OSError": OSError})
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        return capsys.readouterr().err

    before, threading.excepthook = threading.excepthook, threading.__excepthook__
    try:
        saver._quieten()
        saver._quieten()
        assert run("orbax.checkpoint.some") == ""
        assert "No space left" in run("train.some")
    finally:
        threading.excepthook = before


@pytest.mark.parametrize("word", [0, errno.ENOSPC])
def test_of_several_processes_the_first_alone_makes_the_folder(tmp_path, monkeypatch, word):
    """Another one that made it too could lose it to the first one's clearing up, and fail alone."""
    saves = Checkpoints(tmp_path, say=(said := []).append)
    begun = []
    asynchronous = lambda *_: begun.append(1) or SimpleNamespace(result=lambda: None)
    monkeypatch.setattr(saver.ocp, "save_checkpointables_async", asynchronous)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda _: np.int32(word))
    monkeypatch.setattr(saver.forms, "stored", lambda state: state)
    saves.save({}, 3, wait=True)
    assert not list((tmp_path / "checkpoints").iterdir())
    assert len(begun) == (word == 0), "where the first one cannot, no one waits for it"
    assert bool(word) == bool(saves.failed) == bool(said)
    saves.close()
