"""PEFT folders of runs that start from runs of ours: loops, tools and exports take them."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from models import families, interop
from models.options import Options
from scripts import convert, predict, sample
from tests.models.test_adapters import SIZE, drawn
from train.core import checkpoint, forms, lora, origin, reference
from train.data import task, tokenizer

WORDS = tokenizer.named("wordpiece:540", lambda: ["red blue", "green cat"] * 3, True)
SPECIAL = {role: getattr(WORDS, role) for role in ("pad", "unk", "cls", "sep", "mask")}


def flat(tree):
    return {path: np.asarray(x) for path, x in forms.flat(tree).items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(a run, a PEFT folder on it, the options and the parameters that both together have)."""
    place = tmp_path_factory.mktemp("runs")
    under = Options.of(
        {**families.row("bert", "base"), **SIZE, "vocab": WORDS.vocab, "head": "masked"}
    )
    base = drawn(under)
    convert.write_run(
        place / "run", interop.Loaded(under, {"params": base}, WORDS.raw, SPECIAL, "", {})
    )
    o = under.replace(head="classify", labels=3)
    config = ConfigDict(
        {
            "init": {"checkpoint": str(place / "run"), "reference": ""},
            "lora": {
                "rank": 2,
                "alpha": 3.0,
                "targets": "attn/q/kernel$",
                "whole": "^(score|pool)/",
            },
        }
    )
    whole = {**base, **{name: x for name, x in drawn(o, 1).items() if name in ("score", "pool")}}
    how = lora.settings(config)
    made = jax.tree.map(lambda x: np.asarray(x) + 0.1, lora.init(jax.random.key(0), whole, how))
    lora.write(config, o, made, place / "adapter")
    merged = lora.merge({name: x for name, x in whole.items() if name != "head"}, made, how)
    return place / "run", place / "adapter", o, flat(merged)


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for path, x in wanted.items():
        np.testing.assert_allclose(found[path], x, atol=1e-5)


def test_the_base_may_be_a_run(folders):
    _, adapter, o, wanted = folders
    loaded = reference.load(adapter)
    assert loaded.options.head == "classify" and loaded.options.labels == 3
    assert reference.options(adapter).plain() == loaded.options.replace(scan=False).plain()
    assert loaded.tokenizer.get_vocab() == WORDS.raw.get_vocab()
    same(flat(loaded.variables["params"]), wanted)


def test_a_run_starts_from_one(folders):
    run, adapter, o, wanted = folders
    init = {"reference": str(adapter), "checkpoint": ""}
    assert origin.named(init).labels == 3
    config = ConfigDict({"init": init})
    same(flat(lora.base(config, o, drawn(o, 4))), wanted)
    found = task.of_model(init, checkpoint.find)
    assert found.hash == task.of_model({"checkpoint": str(run)}, checkpoint.find).hash
    with pytest.raises(FileNotFoundError, match="is a PEFT folder.*use init.reference"):
        checkpoint.find(adapter)


def test_tools_take_one(folders, tmp_path, capsys):
    _, adapter, _, wanted = folders
    assert convert.main(["--from", str(adapter), "--to", str(tmp_path / "out")]) == 0
    same(flat(interop.load(tmp_path / "out").variables["params"]), wanted)
    assert predict.Reader(str(adapter)).o.labels == 3
    assert sample.load(adapter).tokenizer.vocab == WORDS.vocab
