"""The rows of the convolutional families, which `models.families` takes up: plain data without jax."""

import math

from models.convnets import rounded

_HEAD = dict(head="classify", labels=1000, pool="mean")

# He et al. 2015 with the stride on the 3x3, as the reference implementations have it (the paper's is
# stride_early=True); torch's epsilon and momentum of batch normalisation. The last layer's deviation is
# Goyal et al.'s 2017.
RESNET = dict(
    kind="resnet", norm="batch", norm_eps=1e-5, act="relu", init="he", init_std=0.01, stem=(64,),
    stem_kernel=7, stem_stride=2, stem_pool=True, strides=(1, 2, 2, 2), **_HEAD,
)  # fmt: skip
BASIC = {**RESNET, "widths": (64, 128, 256, 512)}
BOTTLENECK = {**RESNET, "widths": (256, 512, 1024, 2048), "bottleneck": True}

# He et al. 2015, section 4.2, for images of 32 pixels, with projections where the paper pads shortcuts
# with zeros (option A), which adds 2,752 parameters to its 0.27 million.
SMALL = {
    **RESNET, "stem": (16,), "stem_kernel": 3, "stem_stride": 1, "stem_pool": False,
    "strides": (1, 2, 2), "widths": (16, 32, 64), "image_size": 32, "labels": 10,
}  # fmt: skip

# Tan and Le 2019, table 1, and the authors' code: drop connect 0.2, TensorFlow's padding, epsilon and
# decay. Lite (the authors' repository): no gates, ReLU6, stem, first and last stage not scaled.
EFFICIENTNET = dict(
    kind="efficientnet", norm="batch", norm_eps=1e-3, norm_decay=0.99, act="silu", init="he",
    init_std=0.01, stem_kernel=3, stem_stride=2, padding="same", strides=(1, 2, 2, 2, 1, 2, 1),
    kernels=(3, 3, 5, 3, 5, 5, 3), expands=(1, 6, 6, 6, 6, 6, 6), squeeze=0.25, drop_path=0.2, **_HEAD,
)  # fmt: skip
_DEPTHS, _WIDTHS = (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)


def _scaled(width: float, depth: float, size: int, drop: float) -> dict:
    """A row by the paper's compound scaling: factors of width and depth, resolution, dropout."""
    return {
        **EFFICIENTNET, "depths": tuple(math.ceil(depth * n) for n in _DEPTHS),
        "widths": tuple(rounded(width * n) for n in _WIDTHS), "stem": (rounded(width * 32),),
        "top": rounded(width * 1280), "image_size": size, "drop_head": drop,
    }  # fmt: skip


FAMILIES = {
    "resnet": {
        "20": {**SMALL, "depths": (3, 3, 3)},
        "18": {**BASIC, "depths": (2, 2, 2, 2)},
        "34": {**BASIC, "depths": (3, 4, 6, 3)},
        "50": {**BOTTLENECK, "depths": (3, 4, 6, 3)},
        "101": {**BOTTLENECK, "depths": (3, 4, 23, 3)},
        "152": {**BOTTLENECK, "depths": (3, 8, 36, 3)},
    },
    "efficientnet": {
        "lite0": {**_scaled(1.0, 1.0, 224, 0.2), "squeeze": 0.0, "act": "relu6"},
        "b0": _scaled(1.0, 1.0, 224, 0.2),
        "b1": _scaled(1.0, 1.1, 240, 0.2),
        "b2": _scaled(1.1, 1.2, 260, 0.3),
        "b3": _scaled(1.2, 1.4, 300, 0.3),
        "b4": _scaled(1.4, 1.8, 380, 0.4),
        "b5": _scaled(1.6, 2.2, 456, 0.4),
        "b6": _scaled(1.8, 2.6, 528, 0.5),
        "b7": _scaled(2.0, 3.1, 600, 0.5),
    },
}

# As the reference implementations count them, with 1,000 classes (ResNet-20: our count).
COUNTS = {
    ("resnet", "20"): 272_474,
    ("resnet", "18"): 11_689_512,
    ("resnet", "34"): 21_797_672,
    ("resnet", "50"): 25_557_032,
    ("resnet", "101"): 44_549_160,
    ("resnet", "152"): 60_192_808,
    ("efficientnet", "lite0"): 4_652_008,
    ("efficientnet", "b0"): 5_288_548,
    ("efficientnet", "b1"): 7_794_184,
    ("efficientnet", "b2"): 9_109_994,
    ("efficientnet", "b3"): 12_233_232,
    ("efficientnet", "b4"): 19_341_616,
    ("efficientnet", "b5"): 30_389_784,
    ("efficientnet", "b6"): 43_040_704,
    ("efficientnet", "b7"): 66_347_960,
}
