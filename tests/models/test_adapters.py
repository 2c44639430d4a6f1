"""PEFT folders: written and read again, and read as the library itself wrote one."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from models import families
from models.build import build, example
from models.interop import adapters
from models.options import Options
from train.core import forms, lora

SIZE = {"vocab": 40, "context": 16, "layers": 2, "width": 16, "heads": 2, "ff": 32}
HOW = {"rank": 3, "alpha": 6.0, "targets": r"(attn/(q|o)|mlp/up)/kernel$", "whole": r"^score/"}
GOLDEN = Path(__file__).parents[1] / "golden" / "peft_bert"


def options(family="bert", **more):
    return Options.of(
        {**families.row(family, "base"), **SIZE, "head": "classify", "labels": 2, **more}
    )


def trained(o):
    base = build(o).init(jax.random.key(0), example(o))["params"]
    made = forms.flat(lora.init(jax.random.key(1), base, HOW))
    return forms.nest({path: np.asarray(x) + 0.1 for path, x in made.items()})


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_written_and_read_again(tmp_path, family):
    o = options(family)
    made = trained(o)
    adapters.write(tmp_path, o, made, 3, 6.0, "some/base")
    again, rank, alpha = adapters.read(tmp_path, o)
    assert (rank, alpha) == (3, 6.0)
    before, after = forms.flat(made), forms.flat(again)
    assert before.keys() == after.keys()
    for path, x in before.items():
        np.testing.assert_array_equal(x, after[path])


def test_the_names_are_the_librarys(tmp_path):
    o = options()
    adapters.write(tmp_path, o, trained(o), 3, 6.0)
    found = {name: x.shape for name, x in load_file(tmp_path / "adapter_model.safetensors").items()}
    stem = "base_model.model.bert.encoder.layer.1"
    assert found[f"{stem}.attention.self.query.lora_A.weight"] == (3, 16)
    assert found[f"{stem}.intermediate.dense.lora_B.weight"] == (32, 3)
    assert found["base_model.model.classifier.weight"] == (2, 16)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == 3 and config["modules_to_save"] == ["classifier"]
    assert "bert.encoder.layer.0.attention.output.dense" in config["target_modules"]


def test_a_folder_of_the_library_gives_its_scores():
    """`golden/peft_bert`: made by peft 0.21.2 over transformers 5.24, with inputs and logits."""
    held = load_file(GOLDEN / "case.safetensors")
    from models import interop

    loaded = interop.load(GOLDEN / "base")
    made, rank, alpha = adapters.read(GOLDEN / "adapter", loaded.options)
    how = {**HOW, "rank": rank, "alpha": alpha}
    params = lora.merge(loaded.variables["params"], made, how)
    batch = {"tokens": held["tokens"].astype(np.int32), "mask": held["mask"].astype(np.int32)}
    with jax.default_matmul_precision("highest"):
        scores = build(loaded.options).apply({"params": params}, batch)["scores"]
    np.testing.assert_allclose(scores, held["logits"], atol=2e-5)
    plain = build(loaded.options).apply(loaded.variables, batch)["scores"]
    assert np.abs(plain - held["logits"]).max() > 1e-2


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("peft_type", "IA3", "no LoRA adapter"),
        ("use_dora", True, "use_dora=True is not supported"),
        ("rank_pattern", {"query": 4}, "rank_pattern"),
        ("r", 5, "the rank is 5"),
    ],
)
def test_other_adapters_are_refused(tmp_path, field, value, words):
    o = options()
    adapters.write(tmp_path, o, trained(o), 3, 6.0)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ValueError, match=words):
        adapters.read(tmp_path, o)


def test_dropout_that_is_not_ours_is_said(tmp_path, recwarn):
    """A folder trained with dropout in front of its adapters reads the same, with a warning."""
    o = options()
    adapters.write(tmp_path, o, trained(o), 3, 6.0)
    plain = forms.flat(adapters.read(tmp_path, o)[0])
    assert not recwarn
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_dropout": 0.1}))
    with pytest.warns(UserWarning, match="trained with lora_dropout=0.1.* drops none"):
        found = forms.flat(adapters.read(tmp_path, o)[0])
    assert all((found[name] == x).all() for name, x in plain.items())


def test_what_has_no_place_is_named(tmp_path):
    adapters.write(tmp_path, options(layers=3), trained(options(layers=3)), 3, 6.0)
    with pytest.raises(ValueError, match=r"layer\.2\..*no place"):
        adapters.read(tmp_path, options())
