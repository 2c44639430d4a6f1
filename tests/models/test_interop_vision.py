"""Folders of models of images: both spellings, both ways, and what is refused."""

import json

import jax
import numpy as np
import pytest

from models import families, interop
from models.build import build, example
from models.interop import config, describe, hf, timm
from models.interop.rename import flatten
from models.options import Options
from scripts import convert

VIT = dict(layers=2, width=16, heads=2, image_size=8, patch=4, labels=3, ff=20)
SWIN = dict(
    layers=3, width=8, heads=2, depths=(2, 1), stage_heads=(2, 4), side=2, patch=2, image_size=8,
    labels=3, mlp_ratio=2.5,
)  # fmt: skip
ROWS = {
    "vit": families.row("vit", "ti16", **VIT),
    "vit-pooled": families.row(
        "vit", "ti16", **{**VIT, "labels": 0}, head="none", pooler=True, image_width=12, pool_width=5
    ),
    "vit-pixels": families.row(
        "vit", "ti16", **{**VIT, "labels": 0}, head="pixels", mask_token=True, stride=2
    ),
    "deit": families.row("deit", "ti-distilled", **VIT),
    "beit": families.row("beit", "b", **VIT),
    "beit-masked": families.row("beit", "b-mim", **{**VIT, "labels": 0}, ),
    "swin": families.row("swin", "t", **SWIN),
}  # fmt: skip


def made(row: dict, seed: int = 0):
    """(options, params) of random numbers, without compiling the model."""
    o = Options.of(row)
    shapes = jax.eval_shape(build(o).init, jax.random.key(0), example(o))["params"]
    draw = np.random.default_rng(seed)
    return o, jax.tree.map(lambda s: draw.standard_normal(s.shape).astype(np.float32), shapes)


def same(one, two):
    one, two = flatten(one), flatten(two)
    assert set(one) == set(two)
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", list(ROWS))
def test_an_exported_folder_gives_the_same_model(tmp_path, name):
    o, params = made(ROWS[name])
    hf.export(tmp_path, o, params)
    again = interop.load(tmp_path)
    same(again.variables["params"], params)
    assert describe.canonical(again.options) == describe.canonical(o)
    assert build(again.options).o.family == o.family


@pytest.mark.parametrize("name", ["vit", "deit", "beit", "swin"])
def test_timms_folders_too_and_the_scores_are_the_same(tmp_path, name):
    more = {"windowing": "axes"} if name == "swin" else {}
    o, params = made(ROWS[name] | more)
    hf.export(tmp_path, o, params, spelling="timm")
    c = json.loads((tmp_path / "config.json").read_text())
    assert "architecture" in c and "model_type" not in c
    again = interop.load(tmp_path)
    same(again.variables["params"], params)
    assert again.options.plain() | {"resize": o.resize, "family": ""} == _plain(o, again.options)


def _plain(o, again):
    """What may be spelled otherwise taken from the other: free options, derived widths, dropout."""
    loose = {*describe._FREE, *("mlp_ratio", "ff", "score_bias", "init_tokens", "drop_path")}
    return o.plain() | {k: v for k, v in again.plain().items() if k in loose} | {"family": ""}


@pytest.mark.parametrize(
    "architecture,row",
    [
        ("vit_small_patch16_224", ("vit", "s16")),
        ("vit_large_patch32_224", ("vit", "l32")),
        ("deit_base_distilled_patch16_384", ("deit", "b-384-distilled")),
        ("beit_base_patch16_224", ("beit", "b")),
        ("swin_large_patch4_window12_384", ("swin", "l-384")),
    ],
)
def test_timms_architectures_are_our_rows(architecture, row):
    read = config.read(timm.spelled({"architecture": architecture, "num_classes": 1000}))
    ours = Options.of(families.row(*row))
    shapes = lambda o: jax.eval_shape(
        build(o.replace(scan=True)).init, jax.random.key(0), example(o)
    )
    assert shapes(read) == shapes(ours)
    assert (read.norm_eps, read.layer_scale, read.pool) == (
        ours.norm_eps, ours.layer_scale, ours.pool,
    )  # fmt: skip


@pytest.mark.parametrize(
    "c,words",
    [
        ({"model_type": "vit", "hidden_act": "mish"}, "hidden_act"),
        ({"model_type": "vit", "image_size": [1, 2, 3]}, "image_size"),
        ({"model_type": "vit", "patch_size": 500}, "patches"),
        ({"model_type": "vit", "architectures": ["ViTMAEModel2"]}, "ViTMAEModel2"),
        ({"model_type": "beit", "architectures": ["BeitForSemanticSegmentation"]}, "Segmentation"),
        ({"model_type": "beit", "patch_size": [4, 8]}, "patch_size"),
        (
            {
                "model_type": "beit",
                "use_absolute_position_embeddings": True,
                "image_size": [32, 128],
            },
            "image_size makes 2 x 8",
        ),
        ({"model_type": "swin", "depths": [2, 0]}, "depths"),
        ({"model_type": "swin", "depths": [10**6] * 2, "num_heads": [3, 6]}, "layers"),
        ({"model_type": "swin", "num_heads": [3, 6]}, "num_heads"),
        ({"model_type": "timm/VisionTransformer", "qk_norm": True}, "qk_norm"),
        ({"model_type": "timm/VisionTransformer", "global_pool": "map"}, "global_pool"),
        ({"model_type": "timm/Beit", "swiglu_mlp": True}, "swiglu_mlp"),
        ({"model_type": "timm/SwinTransformer", "window_size": [7, 8]}, "window_size"),
        ({"model_type": "timm/SwinTransformer", "flavour": 1}, "flavour"),
    ],
)
def test_what_is_not_supported_is_named(c, words):
    with pytest.raises(ValueError, match=words):
        config.read(c)


def test_an_unknown_architecture_is_named():
    with pytest.raises(ValueError, match="resnest50d"):
        timm.spelled({"architecture": "resnest50d"})


@pytest.mark.parametrize(
    "name,changes,words",
    [
        ("vit", dict(registers=2), "registers"),
        ("vit", dict(positions="sinusoidal_2d"), "positions"),
        ("vit", dict(residual=False), "residual"),
        ("swin", dict(windowing="axes", side=3), "windowing"),
        ("swin", dict(final_norm=False), "final_norm"),
    ],
)
def test_what_the_reference_cannot_express_is_named(name, changes, words):
    with pytest.raises(ValueError, match=words):
        describe.write(Options.of(ROWS[name] | changes))


def test_what_timm_cannot_express_is_named():
    with pytest.raises(ValueError, match="windowing"):
        describe.spelled(Options.of(ROWS["swin"] | dict(side=3)))
    assert describe.spelled(Options.of(ROWS["swin"]))[0] == "timm/SwinTransformer"
    with pytest.raises(ValueError, match="spelling"):
        hf.export("nowhere", *made(ROWS["vit"]), spelling="jax")


def test_a_folder_of_timms_becomes_the_references_and_a_run(tmp_path, capsys):
    o, params = made(ROWS["swin"])
    hf.export(tmp_path / "timm", o, params, spelling="timm")
    convert.main(["--from", str(tmp_path / "timm"), "--to", str(tmp_path / "hf")])
    same(interop.load(tmp_path / "hf").variables["params"], params)
    convert.main(["--from", str(tmp_path / "hf"), "--to", str(tmp_path / "run"), "--as", "run"])
    convert.main(["--from", str(tmp_path / "run"), "--to", str(tmp_path / "two"), "--as", "timm"])
    same(interop.load(tmp_path / "two").variables["params"], params)
    assert "images of 8 x 8" in capsys.readouterr().out
