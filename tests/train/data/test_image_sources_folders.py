"""Folders of pictures as people have them: hidden and empty ones, odd names, parts in several files."""

import os
import sys
import types
import unicodedata

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from tests.train.data.test_image_sources import encoded
from train.data import image_sources, images


def picture(*parts):
    path = os.path.join(*map(str, parts))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")


def table(path, labels):
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": [{"bytes": encoded(), "path": ""} for _ in labels], "label": labels}
    parquet.write_table(pa.table(rows), path)


def test_what_is_hidden_is_no_class_and_no_picture(tmp_path):
    for name in ("a/1.png", "b/1.png", ".ipynb_checkpoints/1.png", "a/.trash/1.png"):
        picture(tmp_path, "train", name)
    for name in (".git", "__MACOSX", "a/album.png"):
        (tmp_path / "train" / name).mkdir()
    (tmp_path / "train" / "a" / "._1.png").write_bytes(b"\0\5\x16\7")
    found = image_sources.read(str(tmp_path))["train"]
    assert found.labels == ("a", "b") and found.targets.tolist() == [0, 1]


def test_a_class_of_training_has_pictures_one_of_the_held_out_part_need_not(tmp_path):
    for part in ("Train", "Val", "test"):
        picture(tmp_path, part, "a", "1.png")
    (tmp_path / "Val" / "b").mkdir()
    (tmp_path / "Train" / "b").mkdir()
    with pytest.raises(ValueError, match="Train/b is a class without a picture"):
        image_sources.read(str(tmp_path))
    picture(tmp_path, "Train", "b", "1.png")
    found = image_sources.read(str(tmp_path))
    assert found["valid"].labels == ("a", "b") and found["valid"].targets.tolist() == [0]
    assert "Val" in found["valid"].place(0)


def test_a_class_may_be_named_train(tmp_path):
    picture(tmp_path, "train", "1.png")
    picture(tmp_path, "bus", "1.png")
    assert image_sources.read(str(tmp_path))["train"].labels == ("bus", "train")


def test_names_in_two_forms_of_unicode_are_one_and_others_are_spelled_out(tmp_path):
    for part, form in (("train", "NFC"), ("val", "NFD")):
        picture(tmp_path, part, unicodedata.normalize(form, "café"), "1.png")
        picture(tmp_path, part, os.fsdecode(b"\xff"), os.fsdecode(b"\xfe.png"))
    found = image_sources.read(str(tmp_path))
    assert found["train"].labels == ("café", "\\xff") == found["valid"].labels
    assert found["train"].place(1).endswith("\\xff/\\xfe.png")
    made = config(str(tmp_path))
    stream = images.open_stream(made, found["train"])
    assert stream.batch(0)["images"].shape == (2, 8, 8, 3)
    assert stream.fingerprint["labels"] == ["café", "\\xff"]


def config(source, **data):
    data = dict(source=source, crop_share=1.0, **data)
    model = dict(image_size=8, channels=3)
    return ConfigDict(dict(seed=0, batch=2, data=data, model=model, eval=dict(batches=0)))


def test_a_test_part_is_not_mixed_into_the_valid_one(tmp_path):
    table(tmp_path / "data" / "train-00000-of-00001.parquet", [0, 1, 0, 1])
    table(tmp_path / "data" / "test-00000-of-00001.parquet", [-1, -1])  # as tests of benchmarks are
    table(tmp_path / "data" / "validation-00000-of-00001.PARQUET", [0, 1, 1])
    found = image_sources.read(str(tmp_path))
    assert {name: len(part) for name, part in found.items()} == {"train": 4, "valid": 3}
    (tmp_path / "data" / "validation-00000-of-00001.PARQUET").unlink()
    table(tmp_path / "data" / "test-00000-of-00001.parquet", [1, 0])
    assert image_sources.read(str(tmp_path))["valid"].targets.tolist() == [1, 0]


def test_shards_are_known_by_the_suffix_before_their_number(tmp_path):
    pytest.importorskip("array_record")
    from train.data import records

    for part, count in (("train", 4), ("test", 2)):
        rows = [{"image": encoded(n), "label": [n % 2]} for n in range(count)]
        records.write(tmp_path / f"digits-{part}.array_record-00000-of-00001", rows)
    found = image_sources.read(str(tmp_path))
    assert {name: len(part) for name, part in found.items()} == {"train": 4, "valid": 2}


def test_of_the_hub_the_validation_part_is_held_out_whatever_comes_first(monkeypatch):
    class Rows(list):
        column_names = ("image", "label")
        features = {"label": types.SimpleNamespace(names=("x", "y"))}

        def __getitem__(self, key):
            return [0] * len(self) if key == "label" else None

        def cast_column(self, name, kind):
            return self

    parts = {"test": Rows([1] * 5), "validation": Rows([1] * 3), "train": Rows([1] * 4)}
    fake = types.ModuleType("datasets")
    fake.load_dataset, fake.Image = lambda *_: parts, lambda decode: None
    monkeypatch.setitem(sys.modules, "datasets", fake)
    found = image_sources.read("hub:someone/something")
    assert {name: len(part) for name, part in found.items()} == {"train": 4, "valid": 3}


def test_one_picture_is_not_held_out(tmp_path):
    picture(tmp_path, "a", "1.png")
    with pytest.raises(ValueError, match="has 1 pictures; config.data.valid_share=0.1 leaves none"):
        images.parts(config(str(tmp_path)))


def test_a_few_of_a_sorted_source_are_of_all_its_classes():
    sorted_ = np.repeat(np.arange(10), 30)
    part = image_sources.in_memory("a", np.zeros((300, 8, 8), np.uint8), sorted_)
    few = images.sample(part, 100)
    assert len(few) == 100 and set(few.targets) == set(range(10))
    assert few.targets.tolist() == images.sample(part, 100).targets.tolist()
    assert images.sample(part, 300) is part
    made = config("a")
    made.eval.batches, made.model.channels = 30, 1
    for whole, count in ((False, 60), (True, 300)):
        held = images.held(made, part, whole=whole)
        seen = np.concatenate([batch["targets"][batch["rows"] > 0] for batch in held])
        assert len(seen) == count and set(seen) == set(range(10))
