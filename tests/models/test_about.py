"""models.interop.about: names of classes, kinds of problems and the scale of pixels, in folders."""

import json

import pytest

from models import families, interop
from models.interop import about
from models.interop.about import About
from models.options import Options
from tests.models.test_interop import parameters

TOLD = About(("ham", "späm"), "single_label_classification")
PIXELS = About(("a", "b", "c"), "", (0.5, 0.25, 0.125), (0.5, 0.25, 1.0), 0.875, 2)


def text(labels=2):
    return Options.of(
        families.row(
            "bert", "base", vocab=20, context=8, layers=1, width=8, heads=2, ff=8, labels=labels,
            head="classify",
        )
    )  # fmt: skip


def vision():
    return Options.of(
        families.row(
            "vit", "s16", image_size=16, patch=8, layers=1, width=8, heads=2, ff=8, labels=3,
            head="classify",
        )
    )  # fmt: skip


def test_names_and_problem_come_back(tmp_path):
    o = text()
    interop.export(tmp_path, o, parameters(o), told=TOLD)
    c = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert c["id2label"] == {"0": "ham", "1": "späm"} and c["label2id"] == {"ham": 0, "späm": 1}
    assert c["problem_type"] == "single_label_classification"
    assert interop.load(tmp_path).about == TOLD
    assert not (tmp_path / "preprocessor_config.json").exists()


def test_classes_without_names_have_none(tmp_path):
    o = text()
    interop.export(tmp_path, o, parameters(o))
    assert interop.load(tmp_path).about == About()
    c = json.loads((tmp_path / "config.json").read_text())
    assert c["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"} and "problem_type" not in c


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c")])
def test_names_that_are_not_the_models_are_an_error(names, tmp_path):
    o = text()
    with pytest.raises(ValueError, match=f"{len(names)} names for the model's 2 classes"):
        interop.export(tmp_path / "out", o, parameters(o), told=About(names))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spelling", ["reference", "timm"])
@pytest.mark.parametrize("crop", [0.875, 0.0])
def test_pixels_come_back_in_both_spellings(spelling, crop, tmp_path):
    o, told = vision(), About(**{**vars(PIXELS), "crop": crop, "resample": 3})
    interop.export(tmp_path, o, parameters(o), spelling=spelling, told=told)
    found = interop.load(tmp_path).about
    assert found.labels == told.labels and found.mean == told.mean
    assert found.deviation == told.deviation
    assert found.crop == pytest.approx(crop, abs=0.02)  # sides are whole numbers


def test_the_filter_comes_back(tmp_path):
    o = vision()
    interop.export(tmp_path, o, parameters(o), told=PIXELS)
    told = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert interop.load(tmp_path).about.resample == told["resample"] == 2
    assert told["size"] == {"shortest_edge": 18} and told["crop_size"]["height"] == 16


@pytest.mark.parametrize(
    "told, words",
    [
        ({"image_mean": "half", "image_std": [1.0]}, "the mean is 'half'; expected a number"),
        ({"image_mean": [0.5], "image_std": [float("nan")]}, "the std is"),
        ({"image_mean": [0.5, 0.5], "image_std": [0.5]}, "does not go with the mean"),
        ({"image_mean": [0.5], "image_std": [0]}, "does not go with the mean"),
    ],
)
def test_a_malformed_scale_is_named(told, words, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=words):
        about.read(tmp_path, {}, {})


@pytest.mark.parametrize(
    "named", [{"0": "a", "2": "b"}, {"0": 1, "1": 2}, ["a", "b"], {}, {"0": "LABEL_0"}, None]
)
def test_what_names_no_classes_gives_none(named, tmp_path):
    assert about.read(tmp_path, {}, {"id2label": named, "problem_type": "riddle"}) == About()


def test_pixels_that_are_not_normalised_have_no_scale(tmp_path):
    told = {"image_mean": [0.5], "image_std": [0.5], "do_normalize": False, "crop_pct": 0.9}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    assert about.read(tmp_path, {}, {}) == About(crop=0.9)


def test_timm_has_no_models_of_text(tmp_path):
    o = text()
    with pytest.raises(ValueError, match="it cannot hold model.kind='encoder'"):
        interop.export(tmp_path / "out", o, parameters(o), spelling="timm")
