"""A checkpoint that an older version wrote is resumed and sampled from.

tests/golden/format0 was frozen by `python -m tests.train.test_legacy FOLDER` when the format was 1:
its names of two parameters and two fields, and the fields that it lacks, are those of format 0.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from models import families
from train import lm
from train.core import checkpoint, config, forms, integrity, legacy, provenance

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path("tests/golden/format0")
TEXT = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A copy of the frozen run, and the working directory that its data's path is relative to."""
    monkeypatch.chdir(ROOT)
    shutil.copytree(GOLDEN / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def settings(folder) -> ConfigDict:
    return config.complete(ConfigDict(checkpoint.read_config(folder)))


def test_the_frozen_checkpoint_is_as_old_as_it_says(run):
    (folder,) = checkpoint.folders(run)
    assert checkpoint.stated(folder) == 0 < provenance.FORMAT
    raw = json.loads((folder / "config.json").read_text())
    assert "embedding_dropout" in raw["model"] and "drop_embed" not in raw["model"]
    assert "attend" not in raw["model"] and "save" in raw and "checkpoint" not in raw
    assert "params/embed/table/embedding" in checkpoint._metadata(folder)
    assert sum(p.stat().st_size for p in GOLDEN.rglob("*") if p.is_file()) < 64 << 10


def test_it_is_resumed(run, capfd):
    (folder,) = checkpoint.folders(run)
    c = settings(folder)
    assert c.checkpoint.every == 2 and c.model.drop_embed == 0.25
    assert c.model.attend == "auto", "what it did not have takes the default"
    c.steps = 4
    fitted = lm.run(c, run)
    assert "resuming after step 2" in capfd.readouterr().err
    assert int(fitted.state.step) == 4
    newest = checkpoint.folders(run)[-1]
    assert checkpoint.stated(newest) == provenance.FORMAT
    held = forms.flat(checkpoint.inside(newest))
    assert "params/blocks/0/attn/o/kernel" in held
    assert any(re.search("opt_state/.*mu/embed/tokens/embedding", name) for name in held)


def test_every_array_comes_back(run):
    (folder,) = checkpoint.folders(run)
    raw = checkpoint._metadata(folder)
    names = [legacy.renamed(name, 0) for name in raw]
    assert len(set(names)) == len(names) and set(names) != set(raw)
    params, _ = checkpoint.load_params(folder)
    want = json.loads((GOLDEN / "sums.json").read_text())
    got = {name: float(np.float64(x).sum()) for name, x in forms.flat(params).items()}
    assert got == pytest.approx(want, abs=1e-6)


def test_it_is_sampled_from(run, capsys):
    from scripts import sample

    argv = ["--from", str(run), "--prompt", "To be", "--max_new_tokens", "5"]
    assert sample.main(argv) in (0, None)
    assert "To be" in capsys.readouterr().out


def test_another_model_is_still_refused(run):
    (folder,) = checkpoint.folders(run)
    c = settings(folder)
    c.model.drop_embed, c.steps = 0.5, 4
    with pytest.raises(ValueError, match="config.model.drop_embed is 0.5, but this run was"):
        lm.run(c, run)


def test_a_newer_format_is_refused(run):
    (folder,) = checkpoint.folders(run)
    for stated in (provenance.FORMAT + 1, -1, "x", None, True):
        made = json.loads((folder / "run.json").read_text()) | {"format": stated}
        (folder / "run.json").write_text(json.dumps(made))
        integrity.write(folder)
        with pytest.raises(ValueError, match="this version reads up to"):
            checkpoint.load_run(run)


def freeze(root):
    """Trains two steps and rewrites the checkpoint with the names of format 0."""
    from orbax.checkpoint import v1 as ocp

    root.mkdir(parents=True)
    rows = [{"name": name, "text": TEXT * 2} for name in ("first", "second")]
    (root / "works.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = families.row(
        "llama", vocab=280, context=16, layers=1, width=4, heads=2, ff=4, drop_embed=0.25
    )
    c = config.complete(ConfigDict({
        "loop": "lm", "steps": 2, "batch": 2, "length": 16, "model": row,
        "data": {"source": str(root / "works.jsonl"), "tokenizer": "char", "heldout": ("second",)},
        "optim": {"lr": 1e-2, "schedule": "constant", "name": "lion"},
        "mesh": {"data": 1}, "checkpoint": {"every": 2}, "log": {"tensorboard": False},
    }))  # fmt: skip
    lm.run(c, root / "run")
    new = checkpoint.folders(root / "run")[-1]
    old = root / "checkpoints" / new.name
    old.mkdir(parents=True)
    back = lambda name: re.sub(
        r"(^|/)(blocks/\d+/attn)/o/", r"\1\2/out/", name.replace("embed/tokens/", "embed/table/")
    )
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), checkpoint.inside(new)
    )
    wanted.pop("guard", None)
    arrays = forms.flat(checkpoint.load_arrays(new, wanted))
    ocp.save_checkpointables(
        old.absolute() / "state", forms.nest({back(name): x for name, x in arrays.items()})
    )
    (old / "state" / "commit_success.txt").unlink()  # it names the folder that it was made in
    raw = json.loads((new / "config.json").read_text())
    raw["model"]["embedding_dropout"] = raw["model"].pop("drop_embed")
    raw["save"] = raw.pop("checkpoint")
    raw["save"] = {"every": raw["save"]["every"]}
    for name in ("attend", "remat", "score_act"):
        del raw["model"][name]
    for name in [n for n in raw if n.startswith("allow_")]:
        del raw[name]
    (old / "config.json").write_text(json.dumps(raw, indent=1))
    run = json.loads((new / "run.json").read_text())
    (old / "run.json").write_text(
        json.dumps({"format": 0, "fingerprint": run["fingerprint"]}, indent=1)
    )
    shutil.copytree(new / "tokenizer", old / "tokenizer")
    integrity.write(old)
    sums = {
        name.removeprefix("params/"): float(np.float64(x).sum())
        for name, x in arrays.items()
        if name.startswith("params/")
    }
    (root / "sums.json").write_text(json.dumps(sums, indent=1))
    shutil.rmtree(root / "run")


if __name__ == "__main__":
    freeze(Path(sys.argv[1]))
