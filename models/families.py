"""The table of families: what each paper's architecture is, as plain data without jax.

`row("gpt2", "124m")` gives every option of `models.options.Options` as a plain value, so that a
config holds, records and can override each of them. A family is the options that differ from the
defaults; a size is what the paper varies. Sources and published parameter counts stand beside the
rows; `tests/models/test_options.py` holds our counts to them.
"""

import difflib

from models import families_conv, families_encdec, families_vision
from models.options import Options

# Radford et al. 2018. Post-norm, no final norm; the original drops entries of the embedding tables.
GPT1 = dict(
    vocab=40478, context=512, norm_place="post", final_norm=False, init_positions=0.02,
    drop_embed=0.1, drop_table=True, drop_attn=0.1, drop_resid=0.1, drop_head=0.1,
)  # fmt: skip

# Radford et al. 2019. Positions drawn from N(0, 0.01); residual projections scaled by 1/sqrt(2L).
GPT2 = dict(
    drop_embed=0.1, drop_attn=0.1, drop_resid=0.1, drop_head=0.1, init_positions=0.01,
    init_residual=True,
)  # fmt: skip

# Brown et al. 2020: "alternating dense and locally banded sparse attention patterns, similar to the
# Sparse Transformer". The paper publishes neither the window nor the order nor a stride: starting
# with a dense layer and a window of 256 are our choice, and both are options. No dropout is stated.
GPT3 = dict(
    context=2048, pattern=("global", "local"), window=256, init_positions=0.01, init_residual=True,
)  # fmt: skip

# Touvron et al. 2023 (1 and 2), Grattafiori et al. 2024 (3). Initialisation is not published;
# N(0, 0.02) is the reference library's.
LLAMA = dict(
    vocab=32000, context=2048, norm="rms", norm_eps=1e-6, act="silu", gated=True,
    positions="rotary", q_bias=False, k_bias=False, v_bias=False, o_bias=False, mlp_bias=False,
    tied=False,
)  # fmt: skip
LLAMA2 = {**LLAMA, "context": 4096, "norm_eps": 1e-5}
LLAMA3 = {**LLAMA, "vocab": 128256, "context": 8192, "norm_eps": 1e-5, "rope_theta": 5e5}
LLAMA31 = {
    **LLAMA3, "context": 131072, "rope_scaling": "llama3", "rope_factor": 8.0, "rope_low": 1.0,
    "rope_high": 4.0, "rope_original": 8192,
}  # fmt: skip

# Jiang et al. 2024. The router and its loss are in `models.layers.Experts`.
MIXTRAL = {
    **LLAMA, "context": 32768, "norm_eps": 1e-5, "rope_theta": 1e6, "experts": 8,
    "experts_per_token": 2, "balance": 0.02,
}  # fmt: skip

# Devlin et al. 2018; the reference's layer_norm_eps. Sizes below base: Turc et al. 2019. MiniLM: Wang
# et al. 2020, the shape of sentence-transformers' all-MiniLM-L6-v2.
BERT = dict(
    kind="encoder", vocab=30522, context=512, norm_place="post", norm_eps=1e-12, final_norm=False,
    embed_norm=True, act="gelu", causal=False, token_types=2, head="none", pooler=True,
    drop_embed=0.1, drop_attn=0.1, drop_resid=0.1, drop_head=0.1,
)  # fmt: skip
CASED = {**BERT, "vocab": 28996}

# Liu et al. 2019: positions are counted from the ids and start at row padding + 1 = 2.
ROBERTA = {
    **BERT, "vocab": 50265, "norm_eps": 1e-5, "token_types": 1, "position_pad": 1,
    "position_offset": 2, "head_act": "gelu", "drop_pool": True,
}  # fmt: skip

# Beltagy et al. 2020: RoBERTa with windows of 512 and 4,096 positions.
LONGFORMER = {**ROBERTA, "context": 4096, "windows": (512,)}

# Lan et al. 2019, the second version of the checkpoints (tanh GELU, no dropout in pre-training).
ALBERT = {
    **BERT, "vocab": 30000, "act": "gelu_tanh", "embed_width": 128, "share_groups": 1,
    "drop_embed": 0.0, "drop_attn": 0.0, "drop_resid": 0.0,
}  # fmt: skip

# Sanh et al. 2019: no segments, no pooler; the classifiers' dense layer has ReLU.
DISTILBERT = {**BERT, "token_types": 0, "pooler": False, "pool_act": "relu", "drop_head": 0.2}
WITH_HEAD = {  # what a size has with one of these heads alone
    ("distilbert-base", "classify"): {"pooler": True},
    ("distilbert-base", "choice"): {"pooler": True},
}


def _shape(layers, width, heads, **more):
    return dict(layers=layers, width=width, heads=heads, **more)


FAMILIES = {
    "gpt1": {"117m": {**GPT1, **_shape(12, 768, 12)}},
    "gpt2": {
        "124m": {**GPT2, **_shape(12, 768, 12)},
        "355m": {**GPT2, **_shape(24, 1024, 16)},
        "774m": {**GPT2, **_shape(36, 1280, 20)},
        "1558m": {**GPT2, **_shape(48, 1600, 25)},
    },
    "gpt3": {  # Table 2.1; the paper's XL has 24 x 128 and its 13B a width of 5140 with 40 x 128
        "125m": {**GPT3, **_shape(12, 768, 12)},
        "350m": {**GPT3, **_shape(24, 1024, 16)},
        "760m": {**GPT3, **_shape(24, 1536, 16)},
        "1.3b": {**GPT3, **_shape(24, 2048, 24, head_size=128)},
        "2.7b": {**GPT3, **_shape(32, 2560, 32)},
        "6.7b": {**GPT3, **_shape(32, 4096, 32)},
        "13b": {**GPT3, **_shape(40, 5140, 40, head_size=128)},
        "175b": {**GPT3, **_shape(96, 12288, 96)},
    },
    "llama": {
        "7b": {**LLAMA, **_shape(32, 4096, 32, ff=11008)},
        "13b": {**LLAMA, **_shape(40, 5120, 40, ff=13824)},
        "33b": {**LLAMA, **_shape(60, 6656, 52, ff=17920)},
        "65b": {**LLAMA, **_shape(80, 8192, 64, ff=22016)},
        "2-7b": {**LLAMA2, **_shape(32, 4096, 32, ff=11008)},
        "2-13b": {**LLAMA2, **_shape(40, 5120, 40, ff=13824)},
        "2-70b": {**LLAMA2, **_shape(80, 8192, 64, ff=28672, kv_heads=8)},
        "3-8b": {**LLAMA3, **_shape(32, 4096, 32, ff=14336, kv_heads=8)},
        "3-70b": {**LLAMA3, **_shape(80, 8192, 64, ff=28672, kv_heads=8)},
        "3.1-8b": {**LLAMA31, **_shape(32, 4096, 32, ff=14336, kv_heads=8)},
        "3.1-70b": {**LLAMA31, **_shape(80, 8192, 64, ff=28672, kv_heads=8)},
        "3.1-405b": {**LLAMA31, **_shape(126, 16384, 128, ff=53248, kv_heads=8)},
        "3.2-1b": {
            **LLAMA31, **_shape(16, 2048, 32, ff=8192, kv_heads=8), "tied": True,
            "rope_factor": 32.0,
        },
        "3.2-3b": {
            **LLAMA31, **_shape(28, 3072, 24, ff=8192, kv_heads=8), "tied": True,
            "rope_factor": 32.0,
        },
        "smollm2-135m": {
            **LLAMA2, **_shape(30, 576, 9, ff=1536, kv_heads=3), "vocab": 49152, "context": 8192,
            "rope_theta": 1e5, "tied": True,
        },
    },
    "moe": {
        "8x7b": {**MIXTRAL, **_shape(32, 4096, 32, ff=14336, kv_heads=8)},
    },
    "bert": {
        "mini": {**BERT, **_shape(4, 256, 4)},
        "small": {**BERT, **_shape(4, 512, 8)},
        "medium": {**BERT, **_shape(8, 512, 8)},
        "minilm-l6": {**BERT, **_shape(6, 384, 12)},
        "distilbert-base": {**DISTILBERT, **_shape(6, 768, 12)},
        "base": {**BERT, **_shape(12, 768, 12)},
        "base-cased": {**CASED, **_shape(12, 768, 12)},
        "large": {**BERT, **_shape(24, 1024, 16)},
    },
    "roberta": {
        "base": {**ROBERTA, **_shape(12, 768, 12)},
        "large": {**ROBERTA, **_shape(24, 1024, 16)},
    },
    "albert": {
        "base": {**ALBERT, **_shape(12, 768, 12)},
        "large": {**ALBERT, **_shape(24, 1024, 16)},
        "xlarge": {**ALBERT, **_shape(24, 2048, 16)},
        "xxlarge": {**ALBERT, **_shape(12, 4096, 64)},
    },
    "longformer": {
        "base": {**LONGFORMER, **_shape(12, 768, 12)},
        "large": {**LONGFORMER, **_shape(24, 1024, 16)},
    },
    **families_encdec.FAMILIES,
    **families_conv.FAMILIES,
    **families_vision.FAMILIES,
}  # fmt: skip

# Parameters as the reference implementations count them (GPT-3: our count of Table 2.1's shapes).
# Encoders without a head: BertModel with its pooler, DistilBertModel without one, and so on, whose
# counts the sizes below base were held to by building them from their configs (transformers 5).
COUNTS = {
    ("gpt1", "117m"): 116_534_784,
    ("gpt2", "124m"): 124_439_808,
    ("gpt2", "355m"): 354_823_168,
    ("gpt2", "774m"): 774_030_080,
    ("gpt2", "1558m"): 1_557_611_200,
    ("gpt3", "125m"): 125_226_240,
    ("gpt3", "350m"): 355_871_744,
    ("gpt3", "760m"): 760_300_032,
    ("gpt3", "1.3b"): 1_517_123_584,
    ("gpt3", "2.7b"): 2_651_553_280,
    ("gpt3", "6.7b"): 6_658_404_352,
    ("gpt3", "13b"): 12_936_488_380,
    ("gpt3", "175b"): 174_604_259_328,
    ("llama", "7b"): 6_738_415_616,
    ("llama", "13b"): 13_015_864_320,
    ("llama", "33b"): 32_528_943_616,
    ("llama", "65b"): 65_285_660_672,
    ("llama", "2-7b"): 6_738_415_616,
    ("llama", "2-13b"): 13_015_864_320,
    ("llama", "2-70b"): 68_976_648_192,
    ("llama", "3-8b"): 8_030_261_248,
    ("llama", "3-70b"): 70_553_706_496,
    ("llama", "3.1-8b"): 8_030_261_248,
    ("llama", "3.1-70b"): 70_553_706_496,
    ("llama", "3.1-405b"): 405_853_388_800,
    ("llama", "3.2-1b"): 1_235_814_400,
    ("llama", "3.2-3b"): 3_212_749_824,
    ("llama", "smollm2-135m"): 134_515_008,
    ("moe", "8x7b"): 46_702_792_704,
    ("bert", "mini"): 11_170_560,
    ("bert", "small"): 28_763_648,
    ("bert", "medium"): 41_373_184,
    ("bert", "minilm-l6"): 22_713_216,
    ("bert", "distilbert-base"): 66_362_880,
    ("bert", "base"): 109_482_240,
    ("bert", "base-cased"): 108_310_272,
    ("bert", "large"): 335_141_888,
    ("roberta", "base"): 124_645_632,
    ("roberta", "large"): 355_359_744,
    ("albert", "base"): 11_683_584,
    ("albert", "large"): 17_683_968,
    ("albert", "xlarge"): 58_724_864,
    ("albert", "xxlarge"): 222_595_584,
    ("longformer", "base"): 148_659_456,
    ("longformer", "large"): 434_600_960,
    **families_encdec.COUNTS,
    **families_conv.COUNTS,
    **families_vision.COUNTS,
}


def sizes(family: str) -> tuple:
    """The names of a family's sizes, smallest first. ValueError for an unknown family."""
    if family not in FAMILIES:
        near = difflib.get_close_matches(family, FAMILIES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no family {family!r}{hint} Known: {', '.join(FAMILIES)}")
    return tuple(FAMILIES[family])


def row(family: str, size: str = "", **overrides) -> dict:
    """Every option of a family's size as plain values; the smallest size if none is named.

    `overrides` replace single options, by the names of `Options`; a head of another one may bring
    layers of its own with it (WITH_HEAD). ValueError names what is unknown.
    """
    known = sizes(family)
    size = size or known[0]
    if size not in known:
        raise ValueError(f"{family} has no size {size!r}; known: {', '.join(known)}")
    own = {**FAMILIES[family][size], **WITH_HEAD.get((size, overrides.get("head")), {})}
    return Options.of({**own, "family": family, **overrides}).plain()
