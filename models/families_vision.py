"""Rows of the table of families that read images: plain data, taken up by `models.families`."""

# Dosovitskiy et al. 2020; Ti and S are the later papers' (Touvron et al. 2020). The layer that the
# paper has before the head in pre-training (tanh) is `pooler`.
VIT = dict(
    kind="vit", norm_eps=1e-6, act="gelu", causal=False, head="classify", labels=1000,
    score_bias=True,
)  # fmt: skip

# The textbook's PyTorch listing, with the patches attending to each other. As printed its layers are
# made without batch_first=True and read [batch, patches, width]: images attend to each other there,
# and patches never do. Attention alone: no residual, norm or feed-forward; positions from N(0, 1),
# matrices as torch draws them (Glorot and Bengio 2010): N(0, 0.02) leaves nothing after six layers.
TEXTBOOK = {
    **VIT, "norm_place": "none", "final_norm": False, "residual": False, "mlp": False,
    "init": "xavier", "init_std": 1.0, "init_positions": 1.0, "init_tokens": 0.0,
}  # fmt: skip

# Touvron et al. 2020: ViT's shapes, stochastic depth, and a second token and head to distil into.
DEIT = {**VIT, "drop_path": 0.1}
DISTILLED = {**DEIT, "dist_token": True, "head": "distilled"}

# Bao et al. 2021, as released: no absolute positions, keys without bias, the mean of patches normed.
# Pre-training norms twice, at the end of the stack and in the head, as the reference library's model
# with CLS pooling does. The released code divides o and down of layer l by sqrt(2 l) at first; here all by sqrt(2 L).
BEIT = {
    **VIT, "positions": "none", "k_bias": False, "relative_layers": True, "layer_scale": 0.1,
    "pool": "mean", "pool_norm": True, "final_norm": False, "drop_path": 0.1,
    "init_positions": 0.0, "init_residual": True,
}  # fmt: skip
BEIT_MIM = {
    **BEIT, "relative_layers": False, "relative_shared": True, "mask_token": True,
    "head": "masked", "vocab": 8192, "labels": 0, "final_norm": True, "pool": "first",
    "pool_norm": False,
}  # fmt: skip

# Liu et al. 2021. Windows of 7 patches; of 12 for images of 384 pixels.
SWIN = dict(
    kind="swin", norm_eps=1e-5, act="gelu", causal=False, positions="none", patch=4,
    embed_norm=True, cls_token=False, relative_layers=True, pattern=("global", "shifted"),
    pool="mean", head="classify", labels=1000, score_bias=True,
)  # fmt: skip


def _shape(layers, width, heads, **more):
    return dict(layers=layers, width=width, heads=heads, **more)


def _stages(width, depths, heads, rate, **more):
    return dict(
        layers=sum(depths), width=width, heads=heads[0], depths=depths, stage_heads=heads,
        drop_path=rate, **more,
    )  # fmt: skip


FAMILIES = {
    "vit": {
        "ti16": {**VIT, **_shape(12, 192, 3)},
        "s16": {**VIT, **_shape(12, 384, 6)},
        "b16": {**VIT, **_shape(12, 768, 12)},
        "b32": {**VIT, **_shape(12, 768, 12, patch=32)},
        "l16": {**VIT, **_shape(24, 1024, 16)},
        "l32": {**VIT, **_shape(24, 1024, 16, patch=32)},
        "h14": {**VIT, **_shape(32, 1280, 16, patch=14)},
        "textbook": {**TEXTBOOK, **_shape(6, 768, 8)},
    },
    "deit": {
        "ti": {**DEIT, **_shape(12, 192, 3)},
        "s": {**DEIT, **_shape(12, 384, 6)},
        "b": {**DEIT, **_shape(12, 768, 12)},
        "ti-distilled": {**DISTILLED, **_shape(12, 192, 3)},
        "s-distilled": {**DISTILLED, **_shape(12, 384, 6)},
        "b-distilled": {**DISTILLED, **_shape(12, 768, 12)},
        "b-384-distilled": {**DISTILLED, **_shape(12, 768, 12, image_size=384)},
    },
    "beit": {
        "b": {**BEIT, **_shape(12, 768, 12)},
        "b-384": {**BEIT, **_shape(12, 768, 12, image_size=384)},
        "l": {**BEIT, **_shape(24, 1024, 16, layer_scale=1e-5)},
        "b-mim": {**BEIT_MIM, **_shape(12, 768, 12)},
    },
    "swin": {
        "t": {**SWIN, **_stages(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2)},
        "s": {**SWIN, **_stages(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3)},
        "b": {**SWIN, **_stages(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5)},
        "b-384": {
            **SWIN, **_stages(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5, image_size=384, side=12)
        },
        "l": {**SWIN, **_stages(192, (2, 2, 18, 2), (6, 12, 24, 48), 0.5)},
        "l-384": {
            **SWIN, **_stages(192, (2, 2, 18, 2), (6, 12, 24, 48), 0.5, image_size=384, side=12)
        },
    },
}  # fmt: skip

# With 1000 classes, as the reference libraries count them.
COUNTS = {
    ("vit", "ti16"): 5_717_416,
    ("vit", "s16"): 22_050_664,
    ("vit", "b16"): 86_567_656,
    ("vit", "b32"): 88_224_232,
    ("vit", "l16"): 304_326_632,
    ("vit", "l32"): 306_535_400,
    ("vit", "h14"): 632_045_800,
    ("vit", "textbook"): 15_685_864,
    ("deit", "ti"): 5_717_416,
    ("deit", "s"): 22_050_664,
    ("deit", "b"): 86_567_656,
    ("deit", "ti-distilled"): 5_910_800,
    ("deit", "s-distilled"): 22_436_432,
    ("deit", "b-distilled"): 87_338_192,
    ("deit", "b-384-distilled"): 87_630_032,
    ("beit", "b"): 86_530_984,
    ("beit", "b-384"): 86_744_104,
    ("beit", "l"): 304_430_568,
    ("beit", "b-mim"): 91_967_312,
    ("swin", "t"): 28_288_354,
    ("swin", "s"): 49_606_258,
    ("swin", "b"): 87_768_224,
    ("swin", "b-384"): 87_903_584,
    ("swin", "l"): 196_532_476,
    ("swin", "l-384"): 196_735_516,
}
