"""`Options` -> config.json: the way back of `models.interop.config`.

What is written is read again and compared, so that a model which the reference library cannot
express is an error that names the option, never a folder that computes something else.
"""

import dataclasses
from collections.abc import Mapping

from models.interop import about, config, convs, encdecs, encoders, fields, rope, timm, vision
from models.options import Options

_ACTS = {"gelu_tanh": "gelu_new", "identity": "linear"}
_BODY = {
    "openai-gpt": "OpenAIGPT", "gpt2": "GPT2", "gpt_neo": "GPTNeo", "llama": "Llama",
    "mistral": "Mistral", "mixtral": "Mixtral", **encoders.BODY, **encdecs.BODY, **vision.BODY,
    **convs.BODY,
}  # fmt: skip
# Options that the numbers of a trained model do not depend on.
_FREE = {
    "family", "dtype", "stream", "remat", "scan", "attend", "drop_embed", "drop_table", "drop_attn",
    "drop_resid", "drop_head", "init_std", "init_positions", "init_residual", "balance",
    "drop_pool", "global_slots", "drop_act", "drop_final", "init", "drop_path", "init_tokens",
    *convs.FREE,
}  # fmt: skip


def kind(o: Options) -> str:
    """The reference model_type that serves these options. ValueError where there is none."""
    local = "local" in o.kinds()
    if o.kind in convs.FIELDS:
        return convs.kind(o)
    if o.kind in ("vit", "swin"):
        return vision.kind(o)
    if o.kind == "encdec" or o.positions == "relative":
        return encdecs.kind(o)
    if o.kind == "encoder":
        return encoders.kind(o)
    if o.kind != "decoder":
        raise ValueError(f"model.kind={o.kind!r}: the reference has no such model")
    if o.experts:
        return "mixtral"
    if o.norm == "rms":
        return "mistral" if local else "llama"
    if o.norm_place == "post":
        return "openai-gpt"
    return "gpt_neo" if local or not o.q_bias else "gpt2"


def write(o: Options, special: Mapping | None = None, told: about.About | None = None) -> dict:
    """The config.json of these options; `special` has the ids bos, eos, pad, sep (-1: none), `told` names.

    Raises ValueError naming an option that the reference's model_type cannot express.
    """
    name = kind(o)
    if name not in _WRITE:
        raise ValueError(
            f"model.positions={o.positions!r} in an encoder-decoder: the reference has no such model"
        )
    c = {"model_type": name, "architectures": [_BODY[name] + _head(o, name)], "dtype": "float32"}
    for field, _, ours, _ in config.FIELDS[name]:
        c[field] = getattr(o, ours)
    c.update(_WRITE[name](o))
    for role in ("bos", "eos", "pad") if o.kind in ("decoder", "encoder", "encdec") else ():
        found = (special or {}).get(role, -1)
        c[f"{role}_token_id"] = found if found >= 0 else None
    if o.position_pad >= 0:
        c["pad_token_id"] = o.position_pad
    if o.kind == "encdec" and c["pad_token_id"] is None:  # shifting labels needs one
        c["pad_token_id"] = c["eos_token_id"]
    if o.windows and (special or {}).get("sep", -1) >= 0:  # Longformer finds the question by it
        c["sep_token_id"] = special["sep"]
    if (o.labels and o.head != "none") or o.head == "double":
        c.update(about.fields(told or about.About(), o.labels if o.head != "double" else 1))
    if o.head == "double":
        wide = o.labels == o.width and o.labels != 1
        c.update(
            summary_type="cls_index",
            summary_use_proj=True,
            summary_proj_to_labels=not wide,
            summary_activation=None
            if o.score_act == "identity"
            else _ACTS.get(o.score_act, o.score_act),
        )
    _check(o, c, name)
    return c


def spelled(o: Options) -> tuple:
    """(model_type, config.json) of timm's spelling. ValueError for what timm cannot express."""
    c = timm.arguments(o)
    _check(o, c, c["model_type"])
    return c["model_type"], timm.folder(o)


def _head(o, name):
    if name in vision.FIELDS:
        return vision.architecture(o)
    if name in encdecs.FIELDS:
        return encdecs.architecture(o, name)
    if name in convs.FIELDS:
        return convs.architecture(o)
    if o.kind == "encoder":
        return encoders.architecture(o, name)
    if o.head == "classify":
        return "ForSequenceClassification"
    if o.head == "double":
        return "DoubleHeadsModel"
    return "LMHeadModel" if name in ("openai-gpt", "gpt2") else "ForCausalLM"


def _check(o, c, name):
    again, wanted = canonical(config.read(c)), canonical(o)
    for option, value in wanted.items():
        if again.get(option) != value:
            raise ValueError(
                f"model.{option} = {value!r} cannot be written as the reference's {name}, which "
                f"has {again.get(option)!r} there"
            )


def canonical(o):
    """The options that decide the numbers, derived values spelled out and idle ones left out."""
    c = {k: v for k, v in dataclasses.asdict(o).items() if k not in _FREE}
    c.update(kv_heads=o.groups, head_size=o.size, ff=o.hidden, pattern=o.kinds())
    idle = []
    if "local" not in o.kinds():
        idle += ["window"]
    if not o.experts:
        idle += ["experts_per_token"]
    if o.positions != "rotary":
        idle += [k for k in c if k.startswith("rope_")]
    elif o.rope_scaling != "llama3":
        idle += ["rope_low", "rope_high", "rope_original"]
        idle += ["rope_factor"] if o.rope_scaling == "none" else []
    if o.positions != "relative":
        idle += ["buckets", "distance"]
    if o.kind == "encdec":
        idle += encdecs.idle(o)
        c.update(encdecs.sizes(o))
    if o.kind == "encoder":
        idle += encoders.idle(o)
        c["head"] = "none" if o.head == "embed" else o.head
        c["head_act"] = o.head_act or o.act
    if o.kind in convs.FIELDS:
        idle += convs.idle(o)
        c.update(convs.effects(o))
    if o.kind in ("vit", "swin"):
        idle += vision.canonical(o, c)
    else:
        idle += ["mlp_ratio"]
    if o.head == "lm":
        idle += ["labels", "score_bias", "score_act"]
    if o.head == "classify":
        idle += ["tied"]
    return {k: v for k, v in c.items() if k not in idle}


def _gpt1(o):
    return dict(afn="gelu" if o.act == "gelu_tanh" else _no("act", o.act, "gelu"))


def _no(option, value, taken):
    """The value, unless it is a name that means something else to the reference."""
    if value == taken:
        raise ValueError(
            f"model.{option} = {value!r} cannot be written: that name means another one"
        )
    return value


def _gpt2(o):
    return dict(
        activation_function=_ACTS.get(o.act, o.act),
        n_inner=o.hidden,
        scale_attn_weights=o.score_scale == "sqrt",
        add_cross_attention=False,
        reorder_and_upcast_attn=False,
    )


def _gpt_neo(o):
    pattern = fields.shortest(o.kinds()) or ("global",)
    return dict(
        activation_function=_ACTS.get(o.act, o.act),
        intermediate_size=o.hidden,
        window_size=o.window or 256,
        attention_types=[[list(pattern), o.layers // len(pattern)]],
        attention_layers=list(o.kinds()),
    )


def _llama(o):
    c = dict(
        hidden_act=_ACTS.get(o.act, o.act),
        intermediate_size=o.hidden,
        num_key_value_heads=o.groups,
        head_dim=o.size,
        **rope.write(o),
    )
    if kind(o) == "llama":
        return {**c, "attention_bias": o.q_bias, "mlp_bias": o.mlp_bias}
    return {**c, "sliding_window": o.window if "local" in o.kinds() else None}


def _mixtral(o):
    return {**_llama(o), "output_router_logits": False, "router_jitter_noise": 0.0}


_WRITE = {
    "openai-gpt": _gpt1, "gpt2": _gpt2, "gpt_neo": _gpt_neo, "llama": _llama, "mistral": _llama,
    "mixtral": _mixtral, **encoders.WRITE, **encdecs.WRITE, **vision.WRITE, **convs.WRITE,
}  # fmt: skip
