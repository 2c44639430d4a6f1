"""Rows of the table of families that read with one stack and write with another: plain data."""

# Vaswani et al. 2017. The paper states neither the norm's epsilon (torch's here) nor whether the
# projections have biases (the authors' code has none in attention; fairseq, torch and Marian do).
TRANSFORMER = dict(
    kind="encdec", vocab=37000, context=1024, norm_place="post", final_norm=False, act="relu",
    positions="sinusoidal", cross=True, embed_scale=True, init="xavier", init_std=1.0,
    drop_embed=0.1, drop_resid=0.1,
)  # fmt: skip

# Raffel et al. 2020. 32,000 pieces and 100 sentinels, padded to 32,128; no limit of positions, 512
# were trained. 1.1 (the authors' t5.1.1 recipe): gated, its own head, trained without dropout.
T5 = dict(
    kind="encdec", vocab=32128, context=512, norm="rms", norm_eps=1e-6, act="relu",
    positions="relative", q_bias=False, k_bias=False, v_bias=False, o_bias=False, mlp_bias=False,
    cross=True, score_scale="none", head_scale=True, pooler=True, drop_pool=True,
    init="mesh", init_std=1.0, drop_embed=0.1, drop_attn=0.1, drop_resid=0.1, drop_act=0.1, drop_final=0.1,
)  # fmt: skip
T51 = {**T5, "act": "gelu_tanh", "gated": True, "tied": False, "head_scale": False}

# Lewis et al. 2019. Positions are read from row 2 on; </s> = 2 begins a target. The reference's
# `final_logits_bias`, zero in every published file, is `head_bias`: here only if a file has it.
BART = dict(
    kind="encdec", vocab=50265, context=1024, norm_place="post", final_norm=False, embed_norm=True,
    act="gelu", position_offset=2, cross=True, start=2, pooler=True, drop_pool=True,
    drop_embed=0.1, drop_resid=0.1,
)  # fmt: skip

# Junczys-Dowmunt et al. 2018, the reference's form: the 2017 model with all sines before the cosines.
MARIAN = {**TRANSFORMER, "positions": "sinusoidal_halves", "context": 512}

# Radford et al. 2022. The encoder reads 30 s of 80 mel bands; its table of sines is kept as weights.
WHISPER = dict(
    kind="encdec", vocab=51865, context=448, encoder_context=1500, frames=80, act="gelu", cross=True,
    k_bias=False, start=50257,
)  # fmt: skip


def _shape(layers, width, heads, **more):
    return dict(layers=layers, width=width, heads=heads, **more)


FAMILIES = {
    "transformer": {
        "base": {**TRANSFORMER, **_shape(6, 512, 8)},
        "big": {**TRANSFORMER, **_shape(6, 1024, 16), "drop_embed": 0.3, "drop_resid": 0.3},
        "marian": {**MARIAN, **_shape(6, 512, 8), "vocab": 58101, "start": 58100, "act": "silu"},
    },
    "t5": {
        "small": {**T5, **_shape(6, 512, 8, ff=2048)},
        "base": {**T5, **_shape(12, 768, 12, ff=3072)},
        "large": {**T5, **_shape(24, 1024, 16, ff=4096)},
        "3b": {**T5, **_shape(24, 1024, 32, ff=16384, head_size=128)},
        "11b": {**T5, **_shape(24, 1024, 128, ff=65536, head_size=128)},
        "1.1-small": {**T51, **_shape(8, 512, 6, ff=1024, head_size=64)},
        "1.1-base": {**T51, **_shape(12, 768, 12, ff=2048)},
        "1.1-large": {**T51, **_shape(24, 1024, 16, ff=2816)},
        "1.1-xl": {**T51, **_shape(24, 2048, 32, ff=5120)},
        "1.1-xxl": {**T51, **_shape(24, 4096, 64, ff=10240)},
    },
    "whisper": {  # ".en" has one token less, and begins elsewhere
        "tiny": {**WHISPER, **_shape(4, 384, 6), "start": 50258},
        "tiny.en": {**WHISPER, **_shape(4, 384, 6), "vocab": 51864},
        "base": {**WHISPER, **_shape(6, 512, 8), "start": 50258},
        "small": {**WHISPER, **_shape(12, 768, 12), "start": 50258},
        "medium": {**WHISPER, **_shape(24, 1024, 16), "start": 50258},
        "large": {**WHISPER, **_shape(32, 1280, 20), "start": 50258},
    },
    "bart": {
        "base": {**BART, **_shape(6, 768, 12)},
        "large": {**BART, **_shape(12, 1024, 16)},
    },
}  # fmt: skip

# As the reference implementations count them.
COUNTS = {
    ("whisper", "tiny"): 37_760_640,
    ("whisper", "tiny.en"): 37_760_256,
    ("whisper", "base"): 72_593_920,
    ("whisper", "small"): 241_734_912,
    ("whisper", "medium"): 763_857_920,
    ("whisper", "large"): 1_543_304_960,
    ("transformer", "base"): 63_082_496,
    ("transformer", "big"): 214_245_376,
    ("transformer", "marian"): 73_886_208,
    ("t5", "small"): 60_506_624,
    ("t5", "base"): 222_903_552,
    ("t5", "large"): 737_668_096,
    ("t5", "3b"): 2_851_598_336,
    ("t5", "11b"): 11_307_321_344,
    ("t5", "1.1-small"): 76_961_152,
    ("t5", "1.1-base"): 247_577_856,
    ("t5", "1.1-large"): 783_150_080,
    ("t5", "1.1-xl"): 2_849_757_184,
    ("t5", "1.1-xxl"): 11_135_332_352,
    ("bart", "base"): 139_420_416,
    ("bart", "large"): 406_291_456,
}
