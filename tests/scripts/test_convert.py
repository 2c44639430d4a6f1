"""scripts.convert: reference folders, GGUF files, packages and runs, and its errors."""

import importlib
import importlib.metadata
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from tokenizers import Tokenizer, models

from models import families, interop
from models.interop import describe, encoders, rename
from models.interop.about import About
from models.options import Options
from scripts import convert
from tests.models import test_gguf
from train.core import reference
from train.core.errors import cleanly

GOLDEN = Path(__file__).parents[1] / "golden" / "parity"


def same(a, b):
    a, b = rename.flatten(a["params"]), rename.flatten(b["params"])
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture
def file(tmp_path):
    """A small GGUF file with a tokenizer."""
    o = Options.of(families.row("llama", **test_gguf.SMALL, tied=True))
    fields, arrays, _ = test_gguf.model(o)
    test_gguf.write(tmp_path / "m.gguf", fields, arrays)
    return tmp_path / "m.gguf"


def test_gguf_to_a_reference_folder(file, tmp_path, capsys):
    assert convert.main(["--from", str(file), "--to", str(tmp_path / "out")]) == 0
    want, got = interop.load(file), interop.load(tmp_path / "out")
    assert got.options == want.options and got.special == want.special
    assert same(got.variables, want.variables)
    assert got.chat_template == want.chat_template
    text = "ab 12ab<|end|>a"
    assert got.tokenizer.encode(text).ids == want.tokenizer.encode(text).ids
    out = capsys.readouterr().out
    count = sum(x.size for x in rename.flatten(want.variables["params"]).values())
    assert f"{count:,} parameters" in out and "40 tokens" in out


def test_a_reference_folder_to_a_run_and_back(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / "gpt2/lm", source)
    Tokenizer(models.WordLevel({f"t{i}": i for i in range(101)}, "t0")).save(
        str(source / "tokenizer.json")
    )
    run, back = str(tmp_path / "run"), str(tmp_path / "back")
    assert convert.main(["--from", str(source), "--to", run, "--as", "run"]) == 0
    assert convert.main(["--from", run, "--to", back]) == 0
    want, got = interop.load(source), interop.load(back)
    assert got.options == want.options and same(got.variables, want.variables)
    assert got.tokenizer.get_vocab() == want.tokenizer.get_vocab()
    assert got.special["eos"] == want.special["eos"] == 2


def test_a_package_is_found_by_name(file, tmp_path, monkeypatch):
    class Entry:
        def __init__(self, path):
            self.path, self.suffix = path, path.suffix

        def locate(self):
            return self.path

    files = {"one": [Entry(file)], "none": [Entry(tmp_path / "a.py")]}

    def find(name):
        if name not in files:
            raise importlib.metadata.PackageNotFoundError(name)
        return files[name]

    monkeypatch.setattr(importlib.metadata, "files", find)
    assert convert.packaged("one") == file
    assert convert.source("one").options == interop.load(file).options
    for name, fault in (("none", "holds 0"), ("missing", "pip install missing")):
        with pytest.raises(FileNotFoundError, match=fault):
            convert.packaged(name)


def fail(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cleanly(convert.main)([str(a) for a in arguments])
    text = capsys.readouterr().err
    assert stopped.value.code == 2 and len(text.splitlines()) <= 3
    return text


def test_mistakes_cost_a_line(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert "does not exist" in fail(["--from", tmp_path / "no" / "where", "--to", out], capsys)
    assert "pip install nowhere" in fail(["--from", "nowhere", "--to", out], capsys)
    assert "not an empty folder" in fail(["--from", file, "--to", tmp_path], capsys)
    (tmp_path / "notes.txt").write_text("x")
    assert "neither" in fail(["--from", tmp_path / "notes.txt", "--to", out], capsys)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "checkpoint" in fail(["--from", empty, "--to", out], capsys)
    assert not out.exists()


def test_what_runs_say_of_their_classes_and_pixels():
    """The scale that training used by default, too; a run made of a folder without one has none."""
    vision = {"kind": "vit", "image_size": 16, "channels": 3}
    run = ConfigDict({"model": vision, "data": {"source": "mnist", "task": "multilabel"}})
    told = reference.about(run, ("a", "b"))
    assert told.labels == ("a", "b") and told.problem == "multi_label_classification"
    assert told.mean == (0.485, 0.456, 0.406) and told.crop == 0.875 and told.resample == 3
    assert reference.about(ConfigDict({"model": vision, "data": {}}), ()).mean == ()
    text = ConfigDict({"model": {"kind": "encoder"}, "data": {"train": "a.csv", "task": "regress"}})
    assert reference.about(text, ()) == About(problem="regression")
    text.data.task = "classify"
    assert reference.about(text, ("x",)).problem == "single_label_classification"
    assert reference.about(ConfigDict({"model": {"kind": "decoder"}}), ()) == About()


# Options of our own configs that the reference has no word for.
LACKS = {
    "beit.py:tiny": "stride", "beit.py:tokenizer": "kind", "efficientnet.py:tiny": "stem",
    "efficientnet.py:lite0": "squeeze", "fashion.py:resnet": "strides",
    "fashion.py:efficientnet": "stem", "fashion.py:tokenizer": "kind",
    "fashion.py:textbook": "mlp", "instruct_demo.py:reward": "score_bias",
    "resnet.py:tiny": "stem_kernel", "resnet.py:20": "stem_kernel", "vit.py:textbook": "mlp",
    "gpt3.py": "(q_bias|heads)", "letters.py": "positions", "transformer.py": "positions",
    "reward.py:tiny": "score_bias", "reward.py:lm": "score_bias", "reward.py:rankings": "score_bias",
}  # fmt: skip


def _models():
    for path in sorted((Path(__file__).parents[2] / "configs").glob("[a-z]*.py")):
        module = importlib.import_module(f"configs.{path.stem}")
        for variant in getattr(module, "VARIANTS", ("",)):
            made = module.get_config(variant) if variant else module.get_config()
            if "model" in made:
                yield f"{path.name}:{variant}".rstrip(":"), made.model.to_dict()


def test_runs_of_every_config_can_be_exported_but_for_what_the_reference_lacks():
    """How a run computes (its precision, its form) is no part of what it is."""
    seen = set()
    for name, model in _models():
        o = Options.of(model)
        table = {"embed": {"positions": {"embedding": np.zeros((o.context, 1))}}}
        o, _ = encoders.counted(o, table)
        known = next((k for k in (name, name.split(":")[0]) if k in LACKS), None)
        known = None if name == "transformer.py:marian" else known
        if known is None:
            assert describe.write(o, {})["model_type"], name
            continue
        seen.add(known)
        try:
            pytest.fail(f"{name} can be exported as {describe.write(o, {})['model_type']}")
        except ValueError as error:
            assert re.search(f"model.{LACKS[known]}", str(error)), name
    assert seen == set(LACKS)


@pytest.mark.parametrize(
    "how", [{"dtype": "bfloat16", "stream": "float32"}, {"scan": True}, {"remat": "full"}]
)
def test_how_a_run_computes_is_not_written(how):
    o = Options.of(families.row("gpt2", vocab=20, context=8, layers=1, width=8, heads=2))
    assert describe.write(o.replace(**how), {}) == describe.write(o, {})
