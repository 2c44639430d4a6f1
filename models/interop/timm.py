"""timm's models of images <-> `Options`: its constructors' arguments, and its folders' config.json.

A folder of timm's names an architecture and what differs from it (`model_args`). Here that becomes
the constructor's arguments with a `model_type` "timm/CLASS", which `models.interop.config` reads.
"""

import re
from collections.abc import Mapping

from models.interop.fields import get
from models.interop.vision import pair, whole
from models.options import Options

_SHARED = (  # (their argument, its other spelling, our option, their default)
    ("in_chans", "", "channels", 3),
    ("num_classes", "", "labels", 1000),
    ("embed_dim", "", "width", 768),
    ("mlp_ratio", "", "mlp_ratio", 4.0),
    ("drop_rate", "", "drop_head", 0.0),
    ("attn_drop_rate", "", "drop_attn", 0.0),
    ("proj_drop_rate", "", "drop_resid", 0.0),
    ("drop_path_rate", "", "drop_path", 0.0),
)
_FLAT = (
    *_SHARED,
    ("depth", "", "layers", 12),
    ("num_heads", "", "heads", 12),
    ("pos_drop_rate", "", "drop_embed", 0.0),
    ("init_values", "", "layer_scale", 0.0),
)
_VIT = (
    *_FLAT,
    ("reg_tokens", "", "registers", 0),
    ("class_token", "", "cls_token", True),
    ("proj_bias", "", "o_bias", True),
)
FIELDS = {
    "timm/VisionTransformer": _VIT,
    "timm/VisionTransformerDistilled": _VIT,
    "timm/Beit": _FLAT,
    "timm/SwinTransformer": tuple(
        (f, a, o, {"embed_dim": 96, "drop_path_rate": 0.1}.get(f, d)) for f, a, o, d in _SHARED
    ),
}
FAMILY = {
    "timm/VisionTransformer": "vit", "timm/VisionTransformerDistilled": "deit",
    "timm/Beit": "beit", "timm/SwinTransformer": "swin",
}  # fmt: skip
_READERS = {  # arguments that the readers below look at, beside those of FIELDS
    "timm/VisionTransformer": (
        "img_size", "patch_size", "global_pool", "qkv_bias", "pos_embed", "no_embed_class",
        "pre_norm", "final_norm", "fc_norm",
    ),
    "timm/Beit": (
        "img_size", "patch_size", "global_pool", "qkv_bias", "use_abs_pos_emb",
        "use_rel_pos_bias", "use_shared_rel_pos_bias",
    ),
    "timm/SwinTransformer": (
        "img_size", "patch_size", "global_pool", "qkv_bias", "depths", "num_heads", "window_size",
    ),
}  # fmt: skip
_READERS["timm/VisionTransformerDistilled"] = _READERS["timm/VisionTransformer"]
_FREE = (  # arguments that do not change what a trained model computes
    "model_type", "weight_init", "fix_init", "head_init_scale", "dynamic_img_size",
    "strict_img_size", "patch_drop_rate", "device", "dtype",
)  # fmt: skip
_ONLY = {  # arguments with the only values that are supported
    "norm_layer": (None, "layernorm"), "act_layer": (None, "gelu"), "embed_norm_layer": (None,),
    "qk_norm": (False,), "scale_attn_norm": (False,), "scale_mlp_norm": (False,),
    "pool_include_prefix": (False,), "dynamic_img_pad": (False,), "swiglu_mlp": (False,),
    "scale_mlp": (False,), "head_dim": (None,), "always_partition": (False,),
}  # fmt: skip


def _check(c: Mapping, kind: str):
    """ValueError for an argument that we do not have, or a value of one."""
    known = {field for field, _, _, _ in FIELDS[kind]} | {*_READERS[kind], *_FREE}
    for name, value in c.items():
        if name in known or (name in _ONLY and value in _ONLY[name]):
            continue
        raise ValueError(f"config.json: {name} = {value!r:.60} is not supported for {kind}")


def _common(c: Mapping, o: dict, patch: int, pools: tuple) -> dict:
    _check(c, c["model_type"])
    height, width = pair({"image_size": c.get("img_size")}, "image_size", 224)
    rows, columns = pair(c, "patch_size", patch)
    pool = get(c, "global_pool", pools[0], str)
    if pool not in pools:
        raise ValueError(f"config.json: global_pool = {pool!r:.40} is not supported")
    bias = get(c, "qkv_bias", True, bool)
    return dict(
        causal=False, act="gelu", image_size=height, image_width=width, patch=rows,
        patch_width=columns, pool="first" if pool == "token" else "mean", q_bias=bias,
        k_bias=bias, v_bias=bias, head="classify" if o["labels"] else "none", pooler=False,
        resize="antialias", drop_act=o["drop_resid"],
    )  # fmt: skip


def _read_vit(c, o):
    found = _common(c, o, 16, ("token", "avg"))
    distilled = c["model_type"].endswith("Distilled")
    normed = get(c, "final_norm", True, bool)
    late = get(c, "fc_norm", found["pool"] == "mean", bool)
    positions = get(c, "pos_embed", "learn", str)
    if positions not in ("learn", "none", ""):
        raise ValueError(f"config.json: pos_embed = {positions!r:.40} is not supported")
    if distilled and found["pool"] != "first":
        raise ValueError("config.json: global_pool of a VisionTransformerDistilled must be 'token'")
    early = get(c, "pre_norm", False, bool)
    return found | dict(
        kind="vit", norm_eps=1e-6, positions="learned" if positions == "learn" else "none",
        position_tokens=not get(c, "no_embed_class", False, bool), embed_norm=early,
        patch_bias=not early, final_norm=normed and not late, pool_norm=normed and late,
        mlp_bias=o["o_bias"], dist_token=distilled,
        head="distilled" if distilled and o["labels"] else found["head"],
    )  # fmt: skip


def _read_beit(c, o):
    found = _common(c, o, 16, ("avg", "token", ""))
    mean, absolute = found["pool"] == "mean", get(c, "use_abs_pos_emb", True, bool)
    if c.get("global_pool") == "":
        raise ValueError("config.json: global_pool = '' is not supported")
    return found | dict(
        kind="vit", norm_eps=1e-6, k_bias=False, positions="learned" if absolute else "none",
        relative_layers=get(c, "use_rel_pos_bias", False, bool),
        relative_shared=get(c, "use_shared_rel_pos_bias", False, bool),
        pool_norm=mean, final_norm=not mean,
    )  # fmt: skip


def _read_swin(c, o):
    found = _common(c, o, 4, ("avg",))
    depths = whole(c, "depths", (2, 2, 6, 2))
    heads = whole(c, "num_heads", (3, 6, 12, 24))
    side, wide = pair(c, "window_size", 7)
    if wide or len(depths) != len(heads) or len(depths) > 10:
        raise ValueError(
            f"config.json: window_size {c.get('window_size')!r:.40}, depths {depths!r:.60}, num_heads "
            f"{heads!r:.60}; supported are square windows and as many heads as depths"
        )
    return found | dict(
        kind="swin", norm_eps=1e-5, positions="none", embed_norm=True, cls_token=False,
        relative_layers=True, pattern=("global", "shifted"), depths=depths, stage_heads=heads,
        layers=sum(depths), heads=heads[0], side=side, windowing="axes",
    )  # fmt: skip


READ = {
    "timm/VisionTransformer": _read_vit, "timm/VisionTransformerDistilled": _read_vit,
    "timm/Beit": _read_beit, "timm/SwinTransformer": _read_swin,
}  # fmt: skip


def kind(o: Options) -> str:
    """The class of timm's that serves these options."""
    if o.kind == "swin":
        return "timm/SwinTransformer"
    if o.dist_token:
        return "timm/VisionTransformerDistilled"
    biased = o.relative_shared or o.relative_layers or (o.q_bias and not o.k_bias)
    return "timm/Beit" if biased else "timm/VisionTransformer"


def arguments(o: Options) -> dict:
    """The constructor's arguments and the `model_type` of a model with these options."""
    name = kind(o)
    size = lambda high, wide: [high, wide] if wide and wide != high else high
    c = {field: getattr(o, ours) for field, _, ours, _ in FIELDS[name]}
    c.update(
        model_type=name, img_size=size(o.image_size, o.image_width),
        patch_size=size(o.patch, o.patch_width), qkv_bias=o.q_bias,
        global_pool="token" if o.pool == "first" else "avg",
    )  # fmt: skip
    if o.kind == "swin":
        return c | dict(depths=list(o.depths), num_heads=list(o.stage_heads), window_size=o.side)
    c.update(mlp_ratio=_ratio(o), init_values=o.layer_scale or None)
    if name == "timm/Beit":
        return c | dict(
            use_abs_pos_emb=o.positions == "learned", use_rel_pos_bias=o.relative_layers,
            use_shared_rel_pos_bias=o.relative_shared,
        )  # fmt: skip
    return c | dict(
        pos_embed="learn" if o.positions == "learned" else "none",
        no_embed_class=not o.position_tokens, pre_norm=o.embed_norm,
        final_norm=o.final_norm or o.pool_norm, fc_norm=o.pool_norm,
    )  # fmt: skip


def _ratio(o: Options) -> float:
    """A ratio whose product with the width, rounded down, is the feed-forward width."""
    ratio = o.hidden / o.width
    return ratio if int(ratio * o.width) == o.hidden else (o.hidden + 0.5) / o.width


_SIZES = {
    "tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}  # fmt: skip
_SWINS = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)), "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)), "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}  # fmt: skip
_FLATS = re.compile(
    r"(vit|deit|beit)_(tiny|small|base|large|huge)(_distilled)?_patch(\d{1,3})_(\d{1,4})"
)
_WINDOWED = re.compile(r"swin_(tiny|small|base|large)_patch(\d{1,2})_window(\d{1,2})_(\d{1,4})")


def spelled(c: Mapping) -> dict:
    """The arguments with a `model_type` of a folder of timm's: its architecture's, then its own.

    ValueError names an architecture that we do not have.
    """
    name = str(c.get("architecture"))
    flat, windowed = _FLATS.fullmatch(name), _WINDOWED.fullmatch(name)
    if flat:
        family, size, distilled, patch, side = flat.groups()
        width, depth, heads = _SIZES[size]
        found = dict(embed_dim=width, depth=depth, num_heads=heads)
        kind = {"vit": "VisionTransformer", "beit": "Beit"}.get(family, "VisionTransformer")
        kind += "Distilled" if distilled else ""
        if family == "beit":
            scale = 0.1 if size == "base" else 1e-5
            found.update(use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=scale)
    elif windowed:
        size, patch, window, side = windowed.groups()
        width, depths, heads = _SWINS[size]
        found = dict(embed_dim=width, depths=depths, num_heads=heads, window_size=int(window))
        kind = "SwinTransformer"
    else:
        raise ValueError(
            f"config.json: architecture = {name!r:.80} is not one of timm's that are read: vit_, "
            "deit_, beit_SIZE_patchN_PIXELS, swin_SIZE_patchN_windowN_PIXELS"
        )
    found.update(patch_size=int(patch), img_size=int(side))
    found.update({k: c[k] for k in ("num_classes", "global_pool") if c.get(k) is not None})
    more = c.get("model_args")
    found.update(more if isinstance(more, Mapping) else {})
    return {**found, "model_type": f"timm/{kind}"}


def folder(o: Options) -> dict:
    """The config.json of a folder that timm reads (`timm.create_model("local-dir:...")`)."""
    from_base = {
        "timm/VisionTransformer": "vit_base_patch16_224",
        "timm/VisionTransformerDistilled": "deit_base_distilled_patch16_224",
        "timm/Beit": "beit_base_patch16_224",
        "timm/SwinTransformer": "swin_tiny_patch4_window7_224",
    }
    c = arguments(o)
    name = from_base[c.pop("model_type")]
    size = [o.channels, o.image_size, o.image_width or o.image_size]
    return {
        "architecture": name, "num_classes": o.labels, "global_pool": c["global_pool"],
        "model_args": c, "pretrained_cfg": {"input_size": size, "num_classes": o.labels},
    }  # fmt: skip
