"""Convolutional nets in both libraries' folders: what is read, refused, and written again."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import families, interop
from models.build import build
from models.interop import config, describe, tensors, timm_nets
from models.options import Options
from tests.models import conv

GOLDEN = Path(__file__).parents[1] / "golden/parity"
PUBLISHED = {  # depthwise_padding of the reference's own checkpoints
    "b0": [], "b1": [16], "b2": [5, 8, 16], "b3": [5, 18], "b4": [6], "b5": [13, 27], "b6": [31],
    "b7": [18],
}  # fmt: skip


def variables(o, seed=0):
    """Variables whose statistics are not the first ones."""
    made = jax.jit(build(o).init)(jax.random.key(seed), conv.images())
    leaves, tree = jax.tree.flatten(made)
    moved = [
        leaf + i + 1 if leaf.dtype == jnp.int32 else leaf * 1.5 for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(tree, moved)


@pytest.mark.parametrize("size", sorted(PUBLISHED))
def test_published_sizes_are_written_as_the_published_configs(size):
    o = Options.of(families.row("efficientnet", size))
    c = describe.write(o)
    assert c["depthwise_padding"] == PUBLISHED[size]
    assert c["out_channels"] == [16, 24, 40, 80, 112, 192, 320] and c["depth_divisor"] == 8
    again = config.read({**c, "depth_coefficient": 1})
    assert describe.canonical(again) == describe.canonical(o)


@pytest.mark.parametrize(
    "family,spelling", [("resnet", "reference"), ("efficientnet", "reference"), ("resnet", "timm")]
)
def test_what_is_exported_is_read_again_statistics_included(family, spelling, tmp_path):
    shape = dict(stem=(32,), top=1280, stem_pool=False) if family == "efficientnet" else {}
    if family == "resnet":
        shape = dict(stem=(64,), depths=(1, 1, 1, 1), widths=(4, 4, 4, 8), strides=(1, 2, 2, 2))
    o = conv.options(family, **shape)
    made = variables(o)
    extra = {"batch_stats": made["batch_stats"]}
    interop.export(tmp_path, o, made["params"], extra=extra, spelling=spelling)
    again = interop.load(tmp_path)
    same = jax.tree.map(
        lambda a, b: np.array_equal(a, b) and a.dtype == b.dtype, again.variables, made
    )
    assert all(jax.tree.leaves(same))
    assert describe.canonical(again.options) == describe.canonical(o)
    assert again.options == interop.options(tmp_path)
    with pytest.raises(ValueError, match="batch_stats lack 'stem/0/norm/mean'"):
        interop.export(tmp_path / "no", o, made["params"])
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50d", "tf_efficientnet_b3", "efficientnet_lite0"]
)
def test_timm_architectures_are_told_from_their_options(name):
    o = config.read(timm_nets.arguments({"architecture": name, "num_classes": 11}))
    c = timm_nets.write(o)
    assert c["architecture"] == name and c["num_classes"] == 11
    assert config.read(timm_nets.arguments(c)) == o


def test_a_file_without_counters_is_read(tmp_path):
    files = tensors.open_folder(GOLDEN / "resnet/first")
    kept = {name: np.array(files[name]) for name in files if "num_batches" not in name}
    tensors.write(tmp_path / "model.safetensors", kept)
    (tmp_path / "config.json").write_text((GOLDEN / "resnet/first/config.json").read_text())
    stats = interop.load(tmp_path).variables["batch_stats"]
    assert int(stats["stem"]["0"]["norm"]["count"]) == 0
    tensors.write(tmp_path / "model.safetensors", dict(list(kept.items())[:-1]))
    with pytest.raises(ValueError, match="lacks"):
        interop.load(tmp_path)


@pytest.mark.parametrize(
    "case,change,words",
    [
        ("resnet/first", dict(layer_type="wide"), ("layer_type", "wide")),
        ("resnet/first", dict(hidden_act="mish"), ("hidden_act", "mish")),
        ("resnet/first", dict(depths=[10**9]), ("depths", "large")),
        ("resnet/first", dict(depths=[10**5]), ("depths", "100,000")),
        ("resnet/first", dict(depths="22"), ("depths", "list")),
        ("resnet/first", dict(hidden_sizes=[6]), ("widths",)),
        ("resnet/first", dict(architectures=["DetrForObjectDetection"]), ("Detr", "head")),
        ("efficientnet/odd", dict(strides=[1, 3, 2]), ("strides", "3")),
        ("efficientnet/odd", dict(hidden_dim=161), ("hidden_dim", "161", "160")),
        ("efficientnet/odd", dict(in_channels=[32, 32, 32]), ("in_channels",)),
        ("efficientnet/odd", dict(kernel_sizes=[3, 4, 5]), ("kernels", "4")),
        ("efficientnet/odd", dict(kernel_sizes=[3, 3, 1], strides=[1, 1, 2]), ("kernel_sizes",)),
        ("efficientnet/odd", dict(pooling_type="min"), ("pooling_type", "min")),
        ("efficientnet/odd", dict(squeeze_expansion_ratio=0), ("squeeze_expansion_ratio",)),
        ("efficientnet/odd", dict(depth_divisor=0), ("depth_divisor",)),
    ],
)
def test_what_is_not_supported_is_named(case, change, words):
    c = json.loads((GOLDEN / case / "config.json").read_text())
    with pytest.raises(ValueError) as error:
        config.read({**c, **change})
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "more,words",
    [
        (dict(architecture="vgg16"), ("architecture", "vgg16")),
        (dict(model_args=[1]), ("model_args",)),
        (dict(model_args={"cardinality": 32}), ("cardinality", "32")),
        (dict(model_args={"stem_type": "shallow"}), ("stem_type", "shallow")),
        (dict(model_args={"speed": 3}), ("speed",)),
        (dict(architecture="efficientnet_b0", model_args={"arch_def": [["er_r1_k3"]]}), ("er_r1",)),
        (dict(architecture="efficientnet_b0", model_args={"pad_type": "valid"}), ("pad_type",)),
        (dict(architecture="efficientnet_b0", model_args={"fix_stem": True}), ("fix_stem",)),
    ],
)
def test_what_is_not_supported_of_timm_is_named(more, words):
    with pytest.raises(ValueError) as error:
        config.read(timm_nets.arguments({"architecture": "resnet18", **more}))
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "family,change,spelling,words",
    [
        ("resnet", dict(norm="layer"), "reference", ("norm", "layer")),
        ("resnet", dict(stem=(8, 8)), "reference", ("stem",)),
        ("resnet", dict(act="gelu"), "reference", ("inner_act",)),
        ("efficientnet", dict(squeeze=0.0), "reference", ("squeeze", "gates")),
        (
            "efficientnet",
            dict(padding="symmetric", stem=(32,), top=1280),
            "reference",
            ("padding",),
        ),
        ("efficientnet", {}, "reference", ("stem", "top")),
        ("efficientnet", {}, "timm", ("timm",)),
        ("resnet", {}, "flax", ("spelling", "flax")),
    ],
)
def test_what_cannot_be_written_is_named(family, change, spelling, words, tmp_path):
    o = conv.options(family, **change)
    with pytest.raises(ValueError) as error:
        interop.export(tmp_path / "out", o, {}, spelling=spelling)
    assert all(word in str(error.value) for word in words)
    assert not (tmp_path / "out").exists()
