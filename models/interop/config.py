"""config.json of the reference library <-> `Options`, one table of fields per model_type.

Fields that change the computation and that we do not have are refused by name; fields that only
steer their generation, caching or bookkeeping are left alone. Defaults are the reference
library's (a config.json may leave out what equals them).
"""

from collections.abc import Mapping

from models.interop import convs, encdecs, encoders, rope, timm, timm_convs, vision
from models.interop.fields import act as act_of
from models.interop.fields import changed, get, labels, shortest
from models.options import Options

_GPT1_ACTS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}

# (their field, its other spelling, our option, their default)
_SHARED_GPT = (
    ("vocab_size", "", "vocab", None),
    ("n_positions", "max_position_embeddings", "context", None),
    ("n_embd", "hidden_size", "width", None),
    ("n_layer", "num_hidden_layers", "layers", None),
    ("n_head", "num_attention_heads", "heads", None),
    ("layer_norm_epsilon", "", "norm_eps", 1e-5),
    ("resid_pdrop", "", "drop_resid", 0.1),
    ("embd_pdrop", "", "drop_embed", 0.1),
    ("attn_pdrop", "", "drop_attn", 0.1),
    ("summary_first_dropout", "", "drop_head", 0.1),
    ("initializer_range", "", "init_std", 0.02),
    ("tie_word_embeddings", "", "tied", True),
)
_GPT2 = (*_SHARED_GPT, ("scale_attn_by_inverse_layer_idx", "", "scale_by_layer", False))
_GPT_NEO = (
    ("vocab_size", "", "vocab", 50257),
    ("max_position_embeddings", "", "context", 2048),
    ("hidden_size", "", "width", 2048),
    ("num_layers", "num_hidden_layers", "layers", 24),
    ("num_heads", "num_attention_heads", "heads", 16),
    ("layer_norm_epsilon", "", "norm_eps", 1e-5),
    ("resid_dropout", "", "drop_resid", 0.0),
    ("embed_dropout", "", "drop_embed", 0.0),
    ("attention_dropout", "", "drop_attn", 0.0),
    ("initializer_range", "", "init_std", 0.02),
    ("window_size", "", "window", 256),
    ("tie_word_embeddings", "", "tied", True),
)
_LLAMA = (
    ("vocab_size", "", "vocab", 32000),
    ("max_position_embeddings", "", "context", 2048),
    ("hidden_size", "", "width", 4096),
    ("num_hidden_layers", "", "layers", 32),
    ("num_attention_heads", "", "heads", 32),
    ("intermediate_size", "", "ff", 11008),
    ("rms_norm_eps", "", "norm_eps", 1e-6),
    ("attention_dropout", "", "drop_attn", 0.0),
    ("initializer_range", "", "init_std", 0.02),
    ("tie_word_embeddings", "", "tied", False),
)


FIELDS = {
    "openai-gpt": changed(
        _SHARED_GPT, vocab_size=40478, n_positions=512, n_embd=768, n_layer=12, n_head=12
    ),
    "gpt2": changed(_GPT2, vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12),
    "gpt_neo": _GPT_NEO,
    "llama": _LLAMA,
    "mistral": changed(_LLAMA, intermediate_size=14336, max_position_embeddings=131072),
    "mixtral": (
        *changed(
            _LLAMA, intermediate_size=14336, max_position_embeddings=131072, rms_norm_eps=1e-5
        ),
        ("num_local_experts", "num_experts", "experts", 8),
        ("num_experts_per_tok", "", "experts_per_token", 2),
        ("router_aux_loss_coef", "", "balance", 0.001),
    ),
    **encoders.FIELDS,
    **encdecs.FIELDS,
    **convs.FIELDS,
    **timm_convs.FIELDS,
    **vision.FIELDS,
    **timm.FIELDS,
}
# Fields that change the computation, with the only value that is supported.
REFUSED = {
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "quantization_config": None,
    "is_decoder": False,
}
ALLOWED = {**encoders.ALLOWED, **encdecs.ALLOWED}  # but not of these
ALIASES = {  # model types that are another one by another name: its name, and their own defaults
    "camembert": ("roberta", {"vocab_size": 30522}),
    "xlm-roberta": ("roberta", {"vocab_size": 30522}),
    "mt5": ("t5", {
        "vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    }),
}  # fmt: skip
FAMILY = {
    "openai-gpt": "gpt1", "gpt2": "gpt2", "gpt_neo": "gpt3", "llama": "llama", "mistral": "llama",
    "mixtral": "moe", **encoders.FAMILY, **encdecs.FAMILY, **vision.FAMILY, **timm.FAMILY,
    **convs.FAMILY, **timm_convs.FAMILY,
}  # fmt: skip


def renamed(c: Mapping) -> Mapping:
    """A config.json under the model_type that ours know it by.

    The reference's mT5 ties its head to the table, whatever `tie_word_embeddings` says, and never
    rescales it, where a T5 that is tied does.
    """
    kind = c.get("model_type")
    if not isinstance(kind, str) or kind not in ALIASES:
        return c
    kind, defaults = ALIASES[kind]
    always = {"scale_decoder_outputs": False} if c["model_type"] == "mt5" else {}
    return {**defaults, **c, **always, "model_type": kind}


def read(c: Mapping, names=()) -> Options:
    """Options from a parsed config.json; `names` are the checkpoint's tensors, which tell the head.

    Raises ValueError that names the field for a model_type, value or head that we do not have.
    """
    kind = c.get("model_type")
    if not isinstance(kind, str) or kind not in FIELDS:
        known = ", ".join(sorted([*FIELDS, *ALIASES]))
        raise ValueError(f"config.json: model_type is {kind!r:.80}; supported are {known}")
    for field, only in REFUSED.items():
        if c.get(field) not in (None, only) and field not in ALLOWED.get(kind, ()):
            raise ValueError(f"config.json: {field} = {c[field]!r:.60} is not supported")
    o = {"family": FAMILY[kind]}
    for field, alias, ours, default in FIELDS[kind]:
        wanted = type(getattr(Options, ours))
        o[ours] = get(c, field if c.get(field) is not None else alias or field, default, wanted)
    if "init_std" in o:
        o["init_positions"] = o["init_std"]
    o.update(_READ[kind](c, o))
    o.update(HEADS.get(kind, _read_head)(c, names, o))
    count = o.get("layers", 0) * max(o.get("experts", 0), 1) + o.get("encoder_layers", 0)
    if count > 20_000:
        raise ValueError(f"config.json: {count:,} layers are more than any file here can hold")
    return Options.of(o)


def _read_gpt1(c, o):
    return dict(
        act=act_of(c, "afn", "gelu", _GPT1_ACTS),
        norm_place="post",
        final_norm=False,
        drop_table=True,
    )


def _read_gpt2(c, o):
    scaled = get(c, "scale_attn_weights", True, bool)
    return dict(
        act=act_of(c, "activation_function", "gelu_new"),
        ff=get(c, "n_inner", 0, int),
        score_scale="sqrt" if scaled else "none",
        init_residual=True,
    )


def _read_gpt_neo(c, o):
    types = c.get("attention_types") or [[["global", "local"], 12]]
    try:
        kinds = [
            kind for pattern, times in types for _ in range(min(times, 10_000)) for kind in pattern
        ]
    except (TypeError, ValueError):
        raise ValueError(f"config.json: attention_types is {types!r:.80}, not understood") from None
    if len(kinds) != o["layers"] or any(kind not in ("global", "local") for kind in kinds):
        raise ValueError(
            f"config.json: attention_types describes {len(kinds)} layers of the kinds "
            f"{sorted(set(map(str, kinds)))!s:.80}; num_layers is {o['layers']}, known are global, local"
        )
    return dict(
        act=act_of(c, "activation_function", "gelu_new"),
        ff=get(c, "intermediate_size", 0, int),
        pattern=shortest(kinds) or ("global",),
        score_scale="none",
        q_bias=False,
        k_bias=False,
        v_bias=False,
    )


def _read_llama(c, o):
    kind = c["model_type"]
    bias = kind == "llama" and get(c, "attention_bias", False, bool)
    groups = get(c, "num_key_value_heads", 0 if kind == "llama" else 8, int)
    if "num_key_value_heads" in c and c["num_key_value_heads"] is None:
        groups = 0
    if o["heads"] < 1 or (not c.get("head_dim") and o["width"] % o["heads"]):
        raise ValueError(
            f"config.json: num_attention_heads = {o['heads']} does not divide hidden_size = "
            f"{o['width']}, and head_dim is not given"
        )
    size = get(c, "head_dim", 0, int) or o["width"] // o["heads"]
    window = 0
    if kind in ("mistral", "mixtral"):
        standard = 4096 if kind == "mistral" and "sliding_window" not in c else 0
        window = get(c, "sliding_window", standard, int)
    return dict(
        act=act_of(c, "hidden_act", "silu"), gated=True, norm="rms", positions="rotary",
        kv_heads=groups, head_size=0 if size * o["heads"] == o["width"] else size,
        q_bias=bias, k_bias=bias, v_bias=bias, o_bias=bias,
        mlp_bias=kind == "llama" and get(c, "mlp_bias", False, bool),
        window=window, pattern=("local",) if window else ("global",),
        **rope.read(c, 1e6 if kind == "mixtral" else 1e4, o["context"]),
    )  # fmt: skip


_READ = {
    "openai-gpt": _read_gpt1, "gpt2": _read_gpt2, "gpt_neo": _read_gpt_neo,
    "llama": _read_llama, "mistral": _read_llama, "mixtral": _read_llama, **encoders.READ,
    **encdecs.READ, **vision.READ, **timm.READ, **convs.READ, **timm_convs.READ,
}  # fmt: skip


HEADS = {
    **dict.fromkeys(encoders.FIELDS, encoders.read_head),
    **dict.fromkeys(encdecs.FIELDS, encdecs.read_head),
    **dict.fromkeys(convs.FIELDS, convs.read_head),
    **dict.fromkeys(timm_convs.FIELDS, timm_convs.read_head),
    **dict.fromkeys(vision.FIELDS, vision.read_head),
    **dict.fromkeys(timm.FIELDS, lambda c, names, o: {}),
}


def _read_head(c, names, o):
    """The head from the tensors' names, held against the architecture that the config states."""
    stated = c.get("architectures") or [""]
    stated = stated[0] if isinstance(stated, list) and isinstance(stated[0], str) else ""
    known = ("", "LMHeadModel", "ForCausalLM", "ForSequenceClassification", "DoubleHeadsModel")
    bare = stated.endswith("Model") and not stated.endswith(known[1:])
    if not bare and not stated.endswith(known[1:]) and stated:
        raise ValueError(f"config.json: architectures names {stated}, a head that is not supported")
    if "multiple_choice_head.summary.weight" in names or stated.endswith("DoubleHeadsModel"):
        return _read_double(c, o)
    if "score.weight" in names or stated.endswith("ForSequenceClassification"):
        return dict(head="classify", labels=labels(c))
    return dict(tied=True) if bare and "lm_head.weight" not in names else {}


def _read_double(c, o):
    for field, only in (("summary_type", "cls_index"), ("summary_use_proj", True)):
        if c.get(field, only) != only:
            raise ValueError(f"config.json: {field} = {c[field]!r:.60} is not supported")
    act = c.get("summary_activation")
    table = {"": "identity", "tanh": "tanh", "relu": "relu", "gelu": "gelu", "silu": "silu",
             "swish": "silu", "gelu_new": "gelu_tanh", "linear": "identity"}  # fmt: skip
    if not isinstance(act or "", str) or (act or "") not in table:
        raise ValueError(f"config.json: summary_activation = {act!r:.60} is not supported")
    wide = c.get("summary_proj_to_labels", True) is False
    return dict(
        head="double", labels=o["width"] if wide else 1, score_bias=True,
        score_act=table[act or ""],
    )  # fmt: skip
