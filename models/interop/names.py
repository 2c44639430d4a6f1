"""The rename tables: one per reference family. How a row is read: `models.interop.rename`.

Letters: D width, H heads, G key-value heads, K head size, F feed-forward, V vocabulary, E experts,
P rows of the position table, C labels; n is the place of several of our paths in one of their
tensors. `@` is the prefix of their body module.
"""

import dataclasses
from collections.abc import Callable

from models.interop import names_conv, names_encdec, names_encoders, names_vision
from models.interop.rename import Row, Table, norms

HEADS = (
    Row(
        "head/kernel", "lm_head.weight", "V D -> D V", lambda o: o.head != "classify" and not o.tied
    ),
    Row("score/kernel", "score.weight", "C D -> D C", lambda o: o.head == "classify"),
    Row(
        "score/kernel",
        "multiple_choice_head.summary.weight",
        "C D -> D C",
        lambda o: o.head == "double",
    ),
    Row("score/bias", "multiple_choice_head.summary.bias", "C -> C", lambda o: o.head == "double"),
)

FUSED = (  # OpenAI's Conv1D stores [in, out], the transpose of a Linear
    Row(
        "blocks/{i}/attn/q/kernel blocks/{i}/attn/k/kernel blocks/{i}/attn/v/kernel",
        "@h.{i}.attn.c_attn.weight",
        "D (n H K) -> n D H K",
    ),
    Row(
        "blocks/{i}/attn/q/bias blocks/{i}/attn/k/bias blocks/{i}/attn/v/bias",
        "@h.{i}.attn.c_attn.bias",
        "(n H K) -> n H K",
    ),
    Row("blocks/{i}/attn/o/kernel", "@h.{i}.attn.c_proj.weight", "(H K) D -> H K D"),
    Row("blocks/{i}/attn/o/bias", "@h.{i}.attn.c_proj.bias", "D -> D"),
    Row("blocks/{i}/mlp/up/kernel", "@h.{i}.mlp.c_fc.weight", "D F -> D F"),
    Row("blocks/{i}/mlp/up/bias", "@h.{i}.mlp.c_fc.bias", "F -> F"),
    Row("blocks/{i}/mlp/down/kernel", "@h.{i}.mlp.c_proj.weight", "F D -> F D"),
    Row("blocks/{i}/mlp/down/bias", "@h.{i}.mlp.c_proj.bias", "D -> D"),
    *norms("blocks/{i}/attn_norm", "@h.{i}.ln_1"),
    *norms("blocks/{i}/mlp_norm", "@h.{i}.ln_2"),
)

GPT1 = Table(
    rows=(
        Row("embed/tokens/embedding", "@tokens_embed.weight", "V D -> V D"),
        Row("embed/positions/embedding", "@positions_embed.weight", "P D -> P D"),
        *FUSED,
        *HEADS,
    ),
    prefix="transformer.",
    ignore=r"h\.\d+\.attn\.bias|position_ids",
    embedding="@tokens_embed.weight",
)

GPT2 = Table(
    rows=(
        Row("embed/tokens/embedding", "@wte.weight", "V D -> V D"),
        Row("embed/positions/embedding", "@wpe.weight", "P D -> P D"),
        *FUSED,
        *norms("norm", "@ln_f"),
        *HEADS,
    ),
    prefix="transformer.",
    ignore=r"h\.\d+\.attn\.(masked_)?bias",
    embedding="@wte.weight",
)

GPT_NEO = Table(
    rows=(
        Row("embed/tokens/embedding", "@wte.weight", "V D -> V D"),
        Row("embed/positions/embedding", "@wpe.weight", "P D -> P D"),
        Row("blocks/{i}/attn/q/kernel", "@h.{i}.attn.attention.q_proj.weight", "(H K) D -> D H K"),
        Row("blocks/{i}/attn/k/kernel", "@h.{i}.attn.attention.k_proj.weight", "(H K) D -> D H K"),
        Row("blocks/{i}/attn/v/kernel", "@h.{i}.attn.attention.v_proj.weight", "(H K) D -> D H K"),
        Row(
            "blocks/{i}/attn/o/kernel", "@h.{i}.attn.attention.out_proj.weight", "D (H K) -> H K D"
        ),
        Row("blocks/{i}/attn/o/bias", "@h.{i}.attn.attention.out_proj.bias", "D -> D"),
        Row("blocks/{i}/mlp/up/kernel", "@h.{i}.mlp.c_fc.weight", "F D -> D F"),
        Row("blocks/{i}/mlp/up/bias", "@h.{i}.mlp.c_fc.bias", "F -> F"),
        Row("blocks/{i}/mlp/down/kernel", "@h.{i}.mlp.c_proj.weight", "D F -> F D"),
        Row("blocks/{i}/mlp/down/bias", "@h.{i}.mlp.c_proj.bias", "D -> D"),
        *norms("blocks/{i}/attn_norm", "@h.{i}.ln_1"),
        *norms("blocks/{i}/mlp_norm", "@h.{i}.ln_2"),
        *norms("norm", "@ln_f"),
        *HEADS,
    ),
    prefix="transformer.",
    ignore=r"h\.\d+\.attn\.attention\.(masked_)?bias",
    embedding="@wte.weight",
)


def _linear(ours: str, theirs: str, kernel: str, bias: str, when: Callable) -> tuple:
    return (
        Row(f"{ours}/kernel", f"{theirs}.weight", kernel),
        Row(f"{ours}/bias", f"{theirs}.bias", bias, when),
    )


_SHARED = (
    Row("embed/tokens/embedding", "@embed_tokens.weight", "V D -> V D"),
    *_linear(
        "blocks/{i}/attn/q", "@layers.{i}.self_attn.q_proj",
        "(H K) D -> D H K", "(H K) -> H K", lambda o: o.q_bias,
    ),
    *_linear(
        "blocks/{i}/attn/k", "@layers.{i}.self_attn.k_proj",
        "(G K) D -> D G K", "(G K) -> G K", lambda o: o.k_bias,
    ),
    *_linear(
        "blocks/{i}/attn/v", "@layers.{i}.self_attn.v_proj",
        "(G K) D -> D G K", "(G K) -> G K", lambda o: o.v_bias,
    ),
    *_linear(
        "blocks/{i}/attn/o", "@layers.{i}.self_attn.o_proj",
        "D (H K) -> H K D", "D -> D", lambda o: o.o_bias,
    ),
    *norms("blocks/{i}/attn_norm", "@layers.{i}.input_layernorm", bias=False),
    *norms("blocks/{i}/mlp_norm", "@layers.{i}.post_attention_layernorm", bias=False),
    *norms("norm", "@norm", bias=False),
    *HEADS,
)  # fmt: skip

LLAMA = Table(
    rows=(
        *_SHARED,
        *_linear(
            "blocks/{i}/mlp/gate", "@layers.{i}.mlp.gate_proj",
            "F D -> D F", "F -> F", lambda o: o.mlp_bias,
        ),
        *_linear(
            "blocks/{i}/mlp/up", "@layers.{i}.mlp.up_proj",
            "F D -> D F", "F -> F", lambda o: o.mlp_bias,
        ),
        *_linear(
            "blocks/{i}/mlp/down", "@layers.{i}.mlp.down_proj",
            "D F -> F D", "D -> D", lambda o: o.mlp_bias,
        ),
    ),
    prefix="model.",
    ignore=r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
    embedding="@embed_tokens.weight",
)  # fmt: skip

_EXPERT = "@layers.{i}.block_sparse_moe.experts.{e}"
MIXTRAL = Table(
    rows=(
        *_SHARED,
        Row(
            "blocks/{i}/mlp/router/kernel", "@layers.{i}.block_sparse_moe.gate.weight", "E D -> D E"
        ),
        Row("blocks/{i}/mlp/gate/kernel", f"{_EXPERT}.w1.weight", "E F D -> E D F"),
        Row("blocks/{i}/mlp/up/kernel", f"{_EXPERT}.w3.weight", "E F D -> E D F"),
        Row("blocks/{i}/mlp/down/kernel", f"{_EXPERT}.w2.weight", "E D F -> E F D"),
    ),
    prefix="model.",
    ignore=LLAMA.ignore,
    embedding="@embed_tokens.weight",
)

_LAYER, _BLK = "@layers.{i}", "blk.{i}"
_GGML = {  # llama.cpp's names for the same tensors
    "@embed_tokens": "token_embd",
    "@norm": "output_norm",
    "lm_head": "output",
    f"{_LAYER}.input_layernorm": f"{_BLK}.attn_norm",
    f"{_LAYER}.post_attention_layernorm": f"{_BLK}.ffn_norm",
    f"{_LAYER}.self_attn.q_proj": f"{_BLK}.attn_q",
    f"{_LAYER}.self_attn.k_proj": f"{_BLK}.attn_k",
    f"{_LAYER}.self_attn.v_proj": f"{_BLK}.attn_v",
    f"{_LAYER}.self_attn.o_proj": f"{_BLK}.attn_output",
    f"{_LAYER}.mlp.gate_proj": f"{_BLK}.ffn_gate",
    f"{_LAYER}.mlp.up_proj": f"{_BLK}.ffn_up",
    f"{_LAYER}.mlp.down_proj": f"{_BLK}.ffn_down",
}


def _ggml(row: Row) -> Row:
    stem, end = row.theirs.rsplit(".", 1)
    return dataclasses.replace(row, theirs=f"{_GGML.get(stem, stem)}.{end}")


GGUF = Table(
    rows=tuple(_ggml(row) for row in LLAMA.rows),
    prefix="",
    ignore="",
    embedding="token_embd.weight",
)

TABLES = {  # by their model_type
    "openai-gpt": GPT1,
    "gpt2": GPT2,
    "gpt_neo": GPT_NEO,
    "llama": LLAMA,
    "mistral": LLAMA,
    "mixtral": MIXTRAL,
    **names_encoders.TABLES,
    **names_encdec.TABLES,
    **names_conv.TABLES,
    **names_vision.TABLES,
}
