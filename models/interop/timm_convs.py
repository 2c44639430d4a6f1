"""timm's ResNet and EfficientNet <-> `Options`: the arguments of its constructors.

Only arguments that the two nets of the papers need are read; every other one is an error that names it
unless it has its default. Their EfficientNet rounds inner channels to multiples of 8 and takes a gate's
share of those; `arch_def` are its strings of blocks, as in "ir_r2_k5_s2_e6_c40_se0.25".
"""

import re
from collections.abc import Mapping

from models.interop import fields
from models.interop.fields import act, get, numbers

FIELDS = {"timm/ResNet": (), "timm/EfficientNet": ()}
FAMILY = {"timm/ResNet": "resnet", "timm/EfficientNet": "efficientnet"}
_ACTS = {
    "relu": "relu", "relu6": "relu6", "silu": "silu", "swish": "silu", "gelu": "gelu",
    "gelu_tanh": "gelu_tanh", "tanh": "tanh",
}  # fmt: skip
_POOLS = {"avg": "mean", "max": "max"}
_ONLY = {  # arguments with the only value that is supported
    "timm/ResNet": dict(
        output_stride=32, cardinality=1, base_width=64, replace_stem_pool=False,
        block_reduce_first=1, aa_layer=None, drop_block_rate=0.0, block_args=None,
        norm_layer="batchnorm2d",
    ),
    "timm/EfficientNet": dict(
        output_stride=32, aa_layer=None, se_layer=None, norm_layer="batchnorm2d", fix_stem=False,
        round_chs_fn=None,
    ),
}  # fmt: skip
_KNOWN = {
    "timm/ResNet": (
        "block", "layers", "channels", "stem_type", "stem_width", "avg_down", "down_kernel_size",
        "zero_init_last",
    ),
    "timm/EfficientNet": (
        "arch_def", "num_features", "stem_size", "stem_kernel_size", "pad_type", "bn_eps",
        "bn_momentum",
    ),
}  # fmt: skip
_SHARED = (
    "model_type", "num_classes", "in_chans", "global_pool", "act_layer", "drop_rate",
    "drop_path_rate",
)  # fmt: skip


def _common(c: Mapping, o: dict, default: str) -> dict:
    """What both constructors take."""
    kind = c["model_type"]
    for name, value in c.items():
        only = _ONLY[kind].get(name, _ONLY)
        if only is _ONLY and name not in (*_KNOWN[kind], *_SHARED):
            raise ValueError(f"the argument {name!r:.60} of timm's {kind[5:]} is not supported")
        if only is not _ONLY and value not in (None, only):
            raise ValueError(
                f"timm's {kind[5:]} with {name}={value!r:.60} is not supported; expected {only!r}"
            )
    return dict(
        norm="batch", init="he", init_std=0.01, channels=get(c, "in_chans", 3, int),
        act=act(c, "act_layer", default, _ACTS), pool=act(c, "global_pool", "avg", _POOLS),
        drop_head=get(c, "drop_rate", 0.0, float), drop_path=get(c, "drop_path_rate", 0.0, float),
    )  # fmt: skip


def _read_resnet(c: Mapping, o: dict) -> dict:
    block = get(c, "block", "", str)
    if block not in ("BasicBlock", "Bottleneck"):
        raise ValueError(f"timm's block is {block!r:.60}; expected BasicBlock or Bottleneck")
    deep, wide = get(c, "stem_type", "", str), get(c, "stem_width", 64, int)
    stems = {
        "": (64,), "deep": (wide, wide, 2 * wide), "deep_tiered": (wide // 4 * 3, wide, 2 * wide)
    }  # fmt: skip
    if deep not in stems:
        raise ValueError(f"timm's stem_type is {deep!r:.60}; expected one of {', '.join(stems)}")
    if get(c, "down_kernel_size", 1, int) != 1:
        raise ValueError("timm's ResNet with a down_kernel_size other than 1 is not supported")
    depths = fields.blocks(numbers(c, "layers", ()), "layers")
    factor = 4 if block == "Bottleneck" else 1
    return _common(c, o, "relu") | dict(
        kind="resnet", norm_eps=1e-5, depths=depths, bottleneck=factor == 4,
        widths=tuple(factor * n for n in numbers(c, "channels", (64, 128, 256, 512))),
        strides=(1, *[2] * (len(depths) - 1)), stem=stems[deep], stem_kernel=3 if deep else 7,
        stem_stride=2, stem_pool=True, shortcut_pool=get(c, "avg_down", False, bool),
        zero_last=get(c, "zero_init_last", True, bool),
    )  # fmt: skip


def _read_efficientnet(c: Mapping, o: dict) -> dict:
    stages = [_stage(block) for block in _strings(c)]
    ratios = {stage["se"] for stage in stages}
    if len(ratios) > 1:
        raise ValueError(f"timm's arch_def has several ratios of gates, {ratios}; expected one")
    pads = {"": "symmetric", "same": "same"}
    pad = get(c, "pad_type", "", str).lower()
    if pad not in pads:
        raise ValueError(f"timm's pad_type is {pad!r:.60}; expected '' or 'same'")
    return _common(c, o, "relu") | dict(
        kind="efficientnet", norm_eps=get(c, "bn_eps", 1e-5, float),
        norm_decay=1 - get(c, "bn_momentum", 0.1, float),
        depths=fields.blocks(tuple(stage["r"] for stage in stages), "arch_def"),
        widths=tuple(stage["c"] for stage in stages), strides=tuple(stage["s"] for stage in stages),
        kernels=tuple(stage["k"] for stage in stages), expands=tuple(stage["e"] for stage in stages),
        expand_unit=8, squeeze=ratios.pop(), squeeze_nearest=True, padding=pads[pad],
        stem=(get(c, "stem_size", 32, int),), stem_kernel=get(c, "stem_kernel_size", 3, int),
        stem_stride=2, top=get(c, "num_features", 1280, int),
    )  # fmt: skip


def _strings(c):
    """The one string of each stage."""
    found = c.get("arch_def")
    good = isinstance(found, list) and 0 < len(found) <= 100
    if not good or any(not isinstance(s, list) or len(s) != 1 for s in found):
        raise ValueError("timm's arch_def must be a list of lists, each of one string of blocks")
    return [stage[0] for stage in found]


def _stage(text) -> dict:
    """The numbers of a string of blocks: r, k, s, e, c and se."""
    kind, *parts = str(text)[:200].split("_")
    if kind not in ("ds", "ir"):
        raise ValueError(f"timm's block {text!r:.60} is not supported; expected ds_... or ir_...")
    found = {"e": 1, "se": 0.0}
    for part in parts:
        match = re.fullmatch(r"(r|k|s|e|c|se)(\d{1,6}(?:\.\d{1,6})?)", part)
        if match is None:
            raise ValueError(f"timm's block {text!r:.60} says {part!r}, which is not supported")
        number = float(match[2])
        found[match[1]] = int(number) if number.is_integer() and match[1] != "se" else number
    lacking = [name for name in ("r", "k", "s", "c") if type(found.get(name)) is not int]
    if lacking:
        raise ValueError(f"timm's block {text!r:.60} lacks a whole number {lacking[0]!r}")
    if found["s"] not in (1, 2):
        raise ValueError(f"timm's block {text!r:.60} has a stride other than 1 and 2")
    if kind == "ds":
        return found | {"e": 1}
    if found["e"] == 1:
        raise ValueError(f"timm's block {text!r:.60} expands by 1, which is not supported")
    return found


READ = {"timm/ResNet": _read_resnet, "timm/EfficientNet": _read_efficientnet}


def read_head(c: Mapping, names, o: dict) -> dict:
    """A classifier, unless there are no classes."""
    count = get(c, "num_classes", 1000, int)
    return dict(head="classify", labels=count) if count else dict(head="none")
