"""run.json tells what a run was, and gives back the config that it was made with."""

import json
import subprocess

import jax
import pytest
from ml_collections import ConfigDict

from models import families
from train.core import config as configs
from train.core import provenance


def sample():
    row = families.row("gpt3", "125m", head_size=64)
    return configs.complete(
        ConfigDict(
            {
                "model": row,
                "phases": ((10, 32, 4), (20, 64, 4)),
                "optim": {"lr": 1e-30, "multipliers": (("blocks/0/", 0.5),)},
                "data": {"mixture": (("a", 1.0),), "heldout": ()},
                "loop": "ppo",
                "kl": {"inner": {"flag": True, "one": 1, "text": "ü\n"}},
            }
        )
    )


def test_a_config_comes_back_identical(tmp_path):
    config = sample()
    run = provenance.record(config, {"data": 2, "fsdp": 1}, {"files": (("a.bin", 12),)})
    provenance.write(tmp_path, run)
    back = provenance.read(tmp_path)
    assert back["config"] == config
    before, after = configs.leaves(config), configs.leaves(back["config"])
    assert before == after
    assert [type(v) for _, v in before] == [type(v) for _, v in after]
    assert back["config"].phases[1] == (20, 64, 4) and isinstance(back["config"].phases[1], tuple)
    assert back["data"] == {"files": (("a.bin", 12),)}
    assert provenance.differences(config, back["config"]) == []


def test_it_names_what_the_run_depends_on(tmp_path):
    run = provenance.record(sample(), jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]))
    assert set(run["versions"]) >= {"python", "jax", "jaxlib", "flax", "optax", "numpy"}
    assert "not installed" not in run["versions"].values()
    assert run["versions"]["jax"] == jax.__version__
    assert run["mesh"] == {"data": 1} and run["seed"] == 0
    assert run["device"]["kind"] == jax.devices()[0].device_kind
    assert run["device"]["count"] == jax.device_count()
    json.dumps(run, allow_nan=False)


def test_git_says_whether_the_tree_is_dirty(tmp_path, monkeypatch):
    folder = tmp_path / "train" / "core"
    folder.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(folder / "provenance.py"))
    assert provenance.git() == {}
    quiet = dict(cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "a").write_text("1")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", "."], **quiet)
    subprocess.run(["git", "add", "a"], **quiet)
    subprocess.run(["git", *who, "commit", "-qm", "one"], **quiet)
    first = provenance.git()
    assert len(first["sha"]) == 40 and first["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert provenance.git() == {"sha": first["sha"], "dirty": True}


def test_an_earlier_start_is_remembered(tmp_path):
    config = sample()
    provenance.write(tmp_path, provenance.record(config))
    provenance.write(tmp_path, provenance.record(config))
    config.optim.lr = 2.0
    provenance.write(tmp_path, provenance.record(config))
    run = provenance.read(tmp_path)
    assert run["config"].optim.lr == 2.0
    first, second = run["earlier"]
    assert "config" not in first and second["config"]["optim"]["lr"] == 1e-30
    rows = provenance.differences(sample(), run["config"])
    assert rows == [("optim.lr", 1e-30, 2.0)]


def test_a_field_that_is_younger_than_the_run_has_its_default(tmp_path):
    old = sample()
    del old["anomaly"], old.best["patience"]
    provenance.write(tmp_path, provenance.record(old))
    assert provenance.changes(tmp_path, sample()) == []
    now = sample()
    now.best.patience = 3
    assert provenance.changes(tmp_path, now) == [("best.patience", 0, 3)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is not a run"),
        ("{", "damaged"),
        ("[]", "not a run's record"),
        ('{"format": 99, "config": {}}', "format 99"),
        ('{"format": 1}', "holds no config"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, text, words):
    if text is not None:
        (tmp_path / provenance.NAME).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        provenance.read(tmp_path)


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="cannot be written"):
        provenance.encode({"a": object()})
