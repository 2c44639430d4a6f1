"""config.json of the models of images <-> `Options`: ViT, DeiT, BEiT, Swin of the reference library.

`models.interop.config` and `models.interop.describe` take these tables beside their own.
"""

import math
from collections.abc import Mapping

from models.interop.fields import act, get, labels
from models.options import Options
from models.pictures import stage

_NAMES = {"gelu_tanh": "gelu_new", "identity": "linear"}  # activations, where theirs differ
_VIT = (  # (their field, its other spelling, our option, their default)
    ("hidden_size", "", "width", 768),
    ("num_hidden_layers", "", "layers", 12),
    ("num_attention_heads", "", "heads", 12),
    ("intermediate_size", "", "ff", 3072),
    ("hidden_dropout_prob", "", "drop_resid", 0.0),
    ("attention_probs_dropout_prob", "", "drop_attn", 0.0),
    ("initializer_range", "", "init_std", 0.02),
    ("layer_norm_eps", "", "norm_eps", 1e-12),
    ("num_channels", "", "channels", 3),
)
FIELDS = {
    "vit": _VIT,
    "deit": _VIT,
    "beit": (
        *_VIT,
        ("vocab_size", "", "vocab", 8192),
        ("use_mask_token", "", "mask_token", False),
        ("use_relative_position_bias", "", "relative_layers", False),
        ("use_shared_relative_position_bias", "", "relative_shared", False),
        ("layer_scale_init_value", "", "layer_scale", 0.1),
        ("drop_path_rate", "", "drop_path", 0.1),
    ),
    "swin": (
        ("embed_dim", "", "width", 96),
        ("mlp_ratio", "", "mlp_ratio", 4.0),
        ("window_size", "", "side", 7),
        ("hidden_dropout_prob", "", "drop_resid", 0.0),
        ("attention_probs_dropout_prob", "", "drop_attn", 0.0),
        ("drop_path_rate", "", "drop_path", 0.1),
        ("initializer_range", "", "init_std", 0.02),
        ("layer_norm_eps", "", "norm_eps", 1e-5),
        ("num_channels", "", "channels", 3),
    ),
}
FAMILY = {name: name for name in FIELDS}
BODY = {"vit": "ViT", "deit": "DeiT", "beit": "Beit", "swin": "Swin"}
_HEADS = {  # the ends of their architectures' names
    "ForImageClassificationWithTeacher": "distilled", "ForImageClassification": "classify",
    "ForMaskedImageModeling": "pixels", "Backbone": "none", "Model": "none",
}  # fmt: skip
_SIGNS = (  # tensors that tell a head where no architecture is stated
    ("cls_classifier.weight", "distilled"),
    ("classifier.weight", "classify"),
    ("decoder.0.weight", "pixels"),
    ("lm_head.weight", "masked"),
)


def pair(c: Mapping, field: str, default: int) -> tuple:
    """(height, width) of a field that is a number or a list of two; width 0 if they are equal."""
    value = c.get(field)
    value = default if value is None else value
    found = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if len(found) != 2 or any(type(n) is not int or n < 1 for n in found):
        raise ValueError(
            f"config.json: {field} is {value!r:.60}; expected a whole number or [height, width]"
        )
    return found[0], 0 if found[0] == found[1] else found[1]


def whole(c: Mapping, field: str, default: tuple) -> tuple:
    """A list of positive whole numbers."""
    value = c.get(field)
    value = default if value is None else value
    numbers = isinstance(value, (list, tuple)) and len(value) > 0
    if not numbers or any(type(n) is not int or n < 1 for n in value):
        raise ValueError(f"config.json: {field} is {value!r:.80}; expected positive whole numbers")
    return tuple(value)


def _images(c: Mapping, patch: int) -> dict:
    height, width = pair(c, "image_size", 224)
    rows, columns = pair(c, "patch_size", patch)
    return dict(image_size=height, image_width=width, patch=rows, patch_width=columns, causal=False)


def _common(c: Mapping, o: dict) -> dict:
    """What ViT, DeiT and BEiT say likewise."""
    size = get(c, "head_dim", 0, int)
    wide = get(c, "pooler_output_size", o["width"], int)
    return dict(
        kind="vit", act=act(c, "hidden_act", "gelu"), drop_embed=o["drop_resid"], **_images(c, 16),
        head_size=0 if size * o["heads"] == o["width"] else size,
        pool_width=0 if wide == o["width"] else wide,
    )  # fmt: skip


def _read_vit(c, o):
    bias = get(c, "qkv_bias", True, bool)
    return _common(c, o) | dict(
        q_bias=bias, k_bias=bias, v_bias=bias, pooler=True, dist_token=c["model_type"] == "deit",
        pool_act=act(c, "pooler_act", "tanh"),
    )  # fmt: skip


def _read_beit(c, o):
    mean = get(c, "use_mean_pooling", True, bool)
    found = _common(c, o)
    if found["patch_width"]:
        raise ValueError("config.json: patch_size of a beit must be a whole number")
    biased = o["relative_layers"] or o["relative_shared"]
    absolute = get(c, "use_absolute_position_embeddings", False, bool)
    rows = found["image_size"] // found["patch"]
    columns = (found["image_width"] or found["image_size"]) // found["patch"]
    if absolute and rows != columns and math.isqrt(rows * columns) ** 2 == rows * columns:
        side = math.isqrt(rows * columns)
        raise ValueError(
            f"config.json: image_size makes {rows} x {columns} patches, whose table of "
            f"use_absolute_position_embeddings the reference takes for {side} x {side}"
        )
    return found | dict(
        k_bias=False, positions="learned" if absolute else "none", pool="mean" if mean else "first",
        pool_norm=mean, final_norm=not mean, pool_width=0,
        relative_turned=biased and found["image_width"] > 0,  # as the reference reads such tables
    )  # fmt: skip


def _read_swin(c, o):
    depths = whole(c, "depths", (2, 2, 6, 2))
    heads = whole(c, "num_heads", (3, 6, 12, 24))
    if len(depths) != len(heads) or len(depths) > 10:
        raise ValueError(
            f"config.json: depths has {len(depths)} stages and num_heads {len(heads)}; expected as "
            "many, at most 10"
        )
    bias = get(c, "qkv_bias", True, bool)
    absolute = get(c, "use_absolute_embeddings", False, bool)
    return _images(c, 4) | dict(
        kind="swin", act=act(c, "hidden_act", "gelu"), drop_embed=o["drop_resid"], depths=depths,
        stage_heads=heads, layers=sum(depths), heads=heads[0], q_bias=bias, k_bias=bias,
        v_bias=bias, positions="learned" if absolute else "none", embed_norm=True,
        cls_token=False, relative_layers=True, pattern=("global", "shifted"), pool="mean",
    )  # fmt: skip


READ = {"vit": _read_vit, "deit": _read_vit, "beit": _read_beit, "swin": _read_swin}


def read_head(c: Mapping, names, o: dict) -> dict:
    """The head: the architecture's, or told by the tensors."""
    kind = c["model_type"]
    stated = c.get("architectures") or [""]
    stated = stated[0] if isinstance(stated, list) and isinstance(stated[0], str) else ""
    ends = [head for end, head in _HEADS.items() if stated.endswith(end)]
    if (stated and not ends) or (ends[:1] == ["distilled"] and kind != "deit"):
        raise ValueError(f"config.json: architectures names {stated}, a head that is not supported")
    signs = [head for name, head in _SIGNS if name in names]
    head = ends[0] if ends else signs[0] if signs else "none"
    if head == "pixels" and kind == "beit":
        head = "masked"
    found = dict(head=head)
    if head in ("classify", "distilled"):
        found.update(labels=labels(c), pooler=False)
    elif head == "pixels":
        stride = get(c, "encoder_stride", 32 if kind == "swin" else 16, int)
        own = o["patch"] << (len(o["depths"]) - 1 if kind == "swin" else 0)
        found.update(mask_token=True, pooler=False, stride=0 if stride == own else stride)
    elif head == "none" and names:
        pooled = any("pooler." in name for name in names)
        found["pooler"] = pooled and kind != "beit"
        if kind == "beit":
            found["pool_norm"] = o["pool_norm"] and pooled
    if kind in ("beit", "swin"):
        found["pooler"] = False
    return found


def kind(o: Options) -> str:
    """The model_type that serves these options."""
    if o.kind == "swin":
        return "swin"
    if o.dist_token:
        return "deit"
    biased = o.relative_shared or o.relative_layers or (o.q_bias and not o.k_bias)
    return "beit" if biased or o.layer_scale or o.pool_norm or o.head == "masked" else "vit"


def architecture(o: Options) -> str:
    """The end of the architecture's name."""
    if o.head == "masked":
        return "ForMaskedImageModeling"
    return {head: end for end, head in _HEADS.items()}[o.head]


def canonical(o: Options, c: dict) -> list:
    """Options that the head or the kind leaves without effect; spells out derived ones in `c`.

    How tables are resized and windows cut that divide the grid does not matter at the size that
    the tables are made for.
    """
    idle = [
        "context", "tied", "score_bias", "score_act", "head_act", "resize",
    ]  # fmt: skip
    if o.kind == "vit":
        idle += ["mlp_ratio", "side", "windowing", "patch_eps"]
    elif _divided(o):
        idle += ["windowing"]
    c["stride"] = o.stride or o.patch << max(len(o.depths) - 1, 0)
    idle += ["stride"] if o.head != "pixels" else []
    idle += ["vocab"] if o.head != "masked" else []
    idle += ["labels"] if o.head not in ("classify", "distilled") else []
    idle += ["pool_width", "pool_act"] if not o.pools else []
    if o.head in ("none", "masked", "pixels", "distilled"):
        idle += ["pooler", "pool_norm"]
    if o.head in ("pixels", "distilled") and not (o.kind == "vit" and not o.final_norm):
        idle += ["pool"]
    return idle


def _divided(o: Options) -> bool:
    """Whether every stage's grid is square and windows divide it: then both ways to cut are one."""
    for number in range(len(o.depths)):
        rows, columns = stage(o, number).grid
        if rows != columns or rows % o.side or o.image_size % (o.patch << number):
            return False
    return True


def _write_vit(o):
    size = lambda high, wide: [high, wide] if wide and wide != high else high
    found = dict(
        hidden_act=_NAMES.get(o.act, o.act), intermediate_size=o.hidden,
        image_size=size(o.image_size, o.image_width), patch_size=size(o.patch, o.patch_width),
        encoder_stride=o.stride or o.patch, qkv_bias=o.q_bias, pooler_act=_NAMES.get(o.pool_act, o.pool_act),
        pooler_output_size=o.pool_width or o.width,
    )  # fmt: skip
    return found | ({"head_dim": o.head_size} if o.head_size else {})


def _write_beit(o):
    found = _write_vit(o)
    for name in ("encoder_stride", "qkv_bias", "pooler_act", "pooler_output_size"):
        del found[name]
    return found | dict(
        use_mean_pooling=o.pool == "mean", use_absolute_position_embeddings=o.positions == "learned"
    )


def _write_swin(o):
    found = _write_vit(o)
    for name in ("intermediate_size", "pooler_act", "pooler_output_size"):
        del found[name]
    return found | dict(
        depths=list(o.depths), num_heads=list(o.stage_heads),
        use_absolute_embeddings=o.positions == "learned",
        encoder_stride=o.stride or o.patch << (len(o.depths) - 1),
    )  # fmt: skip


WRITE = {"vit": _write_vit, "deit": _write_vit, "beit": _write_beit, "swin": _write_swin}
