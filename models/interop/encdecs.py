"""config.json of the encoder-decoders <-> `Options`: T5 (its encoder alone as well), BART, Marian.

`models.interop.config` and `models.interop.describe` take these tables beside their own.
"""

from collections.abc import Mapping

import numpy as np

from models import positions, sides
from models.interop.fields import ACTS, act, changed, get, labels
from models.options import Options

_BART = (  # (their field, its other spelling, our option, their default)
    ("vocab_size", "", "vocab", 50265),
    ("d_model", "hidden_size", "width", 1024),
    ("decoder_layers", "", "layers", 12),
    ("encoder_layers", "num_hidden_layers", "encoder_layers", 12),
    ("decoder_attention_heads", "", "heads", 16),
    ("encoder_attention_heads", "num_attention_heads", "encoder_heads", 16),
    ("decoder_ffn_dim", "", "ff", 4096),
    ("encoder_ffn_dim", "", "encoder_ff", 4096),
    ("max_position_embeddings", "", "context", 1024),
    ("dropout", "", "drop_resid", 0.1),
    ("attention_dropout", "", "drop_attn", 0.0),
    ("activation_dropout", "", "drop_act", 0.0),
    ("classifier_dropout", "", "drop_head", 0.0),
    ("init_std", "", "init_std", 0.02),
    ("scale_embedding", "", "embed_scale", False),
    ("decoder_start_token_id", "", "start", 2),
    ("tie_word_embeddings", "", "tied", True),
)
FIELDS = {
    "bart": _BART,
    "marian": changed(_BART, vocab_size=58101, decoder_start_token_id=58100),
    "t5": (
        ("vocab_size", "", "vocab", 32128),
        ("d_model", "hidden_size", "width", 512),
        ("num_decoder_layers", "num_layers", "layers", 6),
        ("num_layers", "num_hidden_layers", "encoder_layers", 6),
        ("num_heads", "num_attention_heads", "heads", 8),
        ("d_kv", "head_dim", "head_size", 64),
        ("d_ff", "", "ff", 2048),
        ("n_positions", "", "context", 512),
        ("relative_attention_num_buckets", "", "buckets", 32),
        ("relative_attention_max_distance", "", "distance", 128),
        ("dropout_rate", "", "drop_resid", 0.1),
        ("classifier_dropout", "", "drop_head", 0.0),
        ("layer_norm_epsilon", "", "norm_eps", 1e-6),
        ("initializer_factor", "", "init_std", 1.0),
        ("decoder_start_token_id", "", "start", 0),
        ("tie_word_embeddings", "", "tied", True),
    ),
}
FIELDS["whisper"] = (
    *changed(
        tuple(row for row in _BART if row[0] not in ("max_position_embeddings", "classifier_dropout")),
        vocab_size=51865, d_model=384, decoder_layers=4, encoder_layers=4, decoder_attention_heads=6,
        encoder_attention_heads=6, decoder_ffn_dim=1536, encoder_ffn_dim=1536, dropout=0.0,
        decoder_start_token_id=50257,
    ),
    ("num_mel_bins", "", "frames", 80),
    ("max_source_positions", "", "encoder_context", 1500),
    ("max_target_positions", "", "context", 448),
)  # fmt: skip
FAMILY = {"bart": "bart", "marian": "transformer", "t5": "t5", "whisper": "whisper"}
BODY = {"bart": "Bart", "marian": "Marian", "t5": "T5", "whisper": "Whisper"}
ALLOWED = dict.fromkeys(FIELDS, ("is_encoder_decoder",))
_HEADS = {  # the ends of their architectures' names
    "ForConditionalGeneration": "lm", "WithLMHeadModel": "lm", "MTModel": "lm",
    "ForSequenceClassification": "classify", "ForQuestionAnswering": "spans",
    "ForTokenClassification": "tokens", "EncoderModel": "encoder", "Model": "none",
}  # fmt: skip
_SIGNS = (  # tensors that tell a head where no architecture is stated
    ("classification_head.dense.weight", "classify"),
    ("qa_outputs.weight", "spans"),
    ("classifier.weight", "tokens"),
    ("final_logits_bias", "lm"),
    ("lm_head.weight", "lm"),
    ("model.shared.weight", "lm"),
)
_OLD = {  # fields of old files that never took another value, by model_type
    "normalize_before": (False, False),
    "add_final_layer_norm": (False, False),
    "add_bias_logits": (False, False),
    "normalize_embedding": (True, False),
    "static_position_embeddings": (False, True),
    "encoder_layerdrop": (0.0, 0.0),
    "decoder_layerdrop": (0.0, 0.0),
}


def _read_bart(c, o):
    marian = c["model_type"] == "marian"
    for field, values in _OLD.items():
        only = values[marian]
        if c.get(field) is not None and c[field] != only:
            raise ValueError(f"config.json: {field} = {c[field]!r:.60} is not supported")
    return dict(
        kind="encdec", cross=True, norm_place="post", final_norm=False, embed_norm=not marian,
        act=act(c, "activation_function", "gelu"), drop_embed=o["drop_resid"], drop_pool=True,
        pooler=not marian, position_offset=0 if marian else 2,
        positions="sinusoidal_halves" if marian else "learned", **(_tables(c, o) if marian else {}),
    )  # fmt: skip


def _tables(c, o):
    """Marian's vocabularies: one for both sides, or one for each."""
    if get(c, "share_encoder_decoder_embeddings", True, bool):
        return {}
    return dict(encoder_vocab=o["vocab"], vocab=get(c, "decoder_vocab_size", o["vocab"], int))


def _read_t5(c, o):
    parts = get(c, "feed_forward_proj", "relu", str).split("-")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
        found = c["feed_forward_proj"]
        raise ValueError(f"config.json: feed_forward_proj = {found!r:.60} is not supported")
    name = "gelu_new" if parts == ["gated", "gelu"] else parts[-1]
    chosen = get(c, "dense_act_fn", name, str)
    if chosen not in ACTS:
        raise ValueError(f"config.json: {chosen!r:.60} in the feed-forward layer is not supported")
    scaled = get(c, "scale_decoder_outputs", o["tied"], bool)
    rate = o["drop_resid"]
    return dict(
        kind="encdec", cross=True, norm="rms", positions="relative", score_scale="none",
        q_bias=False, k_bias=False, v_bias=False, o_bias=False, mlp_bias=False, init="mesh",
        act=ACTS[chosen], gated=get(c, "is_gated_act", len(parts) == 2, bool), pooler=True,
        drop_pool=True, head_scale=scaled, drop_embed=rate, drop_attn=rate, drop_act=rate,
        drop_final=rate,
    )  # fmt: skip


def _read_whisper(c, o):
    if get(c, "apply_spec_augment", False, bool):
        raise ValueError("config.json: apply_spec_augment = true is not supported")
    return dict(
        kind="encdec", cross=True, norm_place="pre", norm_eps=1e-5, k_bias=False,
        positions="learned", act=act(c, "activation_function", "gelu"), drop_embed=o["drop_resid"],
    )  # fmt: skip


READ = {"bart": _read_bart, "marian": _read_bart, "t5": _read_t5, "whisper": _read_whisper}


def read_head(c: Mapping, names, o: dict) -> dict:
    """The head: the architecture's, or told by the tensors; and whether the head is tied."""
    stated = c.get("architectures") or [""]
    stated = stated[0] if isinstance(stated, list) and isinstance(stated[0], str) else ""
    ends = [head for end, head in _HEADS.items() if stated.endswith(end)]
    kind, body = c["model_type"], BODY[c["model_type"]]
    if stated and (not ends or (ends[0] in ("tokens", "encoder") and kind != "t5")):
        raise ValueError(f"config.json: architectures names {stated}, a head that is not supported")
    signs = [head for name, head in _SIGNS if name in names]
    head = ends[0] if ends else signs[0] if signs else _unstated(kind, names)
    if body in ("Marian", "Whisper") and head in ("classify", "spans"):
        raise ValueError(f"config.json: a {kind} has no head {head!r}")
    if head in ("tokens", "encoder"):
        return _alone(c, o, head)
    found = dict(head=head, head_bias="final_logits_bias" in names)
    if head == "classify":
        found["labels"] = labels(c) if kind == "t5" or "num_labels" in c or "id2label" in c else 3
    elif head == "spans" and kind == "t5" and labels(c) != 2:
        raise ValueError(f"config.json: {labels(c)} outputs of a span head; expected 2")
    if kind == "t5":  # the reference ties unless the file holds a head of its own
        found["tied"] = o["tied"] or (bool(names) and "lm_head.weight" not in names)
    return found


def _unstated(kind, names):
    if kind != "t5":
        return "none"
    return "lm" if any(name.startswith("decoder.") for name in names) or not names else "encoder"


def computed(files, o):
    """ValueError where a file holds positions other than the sinusoid that is computed instead.

    What 16 bits leave of it is let through.
    """
    for name in files:
        if name.endswith(("encoder.embed_positions.weight", "decoder.embed_positions.weight")):
            table = np.asarray(files[name], np.float32)
            rows = np.arange(len(table)) if table.ndim == 2 else np.zeros(0, np.int32)
            wanted = np.asarray(positions.sinusoid(rows, o.width, halves=True))
            if table.shape != wanted.shape or not np.abs(table - wanted).max(initial=0) < 5e-3:
                raise ValueError(f"{name!r:.80} is not the sinusoid that this model computes")


def _alone(c, o, head):
    """T5's encoder as a model of its own."""
    return dict(
        kind="encoder", cross=False, causal=False, layers=o["encoder_layers"], encoder_layers=0,
        start=0, pooler=False, head_scale=False, tied=True,
        head="none" if head == "encoder" else head, labels=labels(c) if head == "tokens" else 0,
    )  # fmt: skip


def kind(o: Options) -> str:
    """The model_type that serves an encoder-decoder, or one of its stacks."""
    if o.frames:
        return "whisper"
    known = {"relative": "t5", "learned": "bart", "sinusoidal_halves": "marian"}
    return known.get(o.positions, "transformer")


def architecture(o: Options, name: str) -> str:
    """The end of the architecture's name."""
    if o.kind == "encoder":
        return "ForTokenClassification" if o.head == "tokens" else "EncoderModel"
    if o.head == "lm" and name == "marian":
        return "MTModel"
    return {head: end for end, head in reversed(_HEADS.items())}.get(o.head, "Model")


def sizes(o: Options) -> dict:
    """What may differ between the stacks, spelled out."""
    other = sides.encoder(o)
    return dict(encoder_layers=other.layers, encoder_heads=other.heads, encoder_ff=other.hidden)


def idle(o: Options) -> list:
    """Options that an encoder-decoder's head leaves without effect, or that only files decide."""
    found = ["score_bias", "score_act", "head_act", "pool", "head_bias"]
    if o.head != "lm" or o.positions == "relative":
        found += ["tied"]
    if o.head != "lm":
        found += ["head_scale"]
    if o.head != "classify":
        found += ["labels", "pooler", "pool_act"]
    if o.positions != "learned":
        found += ["position_offset"]
    return found


def _name(activation: str) -> str:
    return {"gelu_tanh": "gelu_new", "identity": "linear"}.get(activation, activation)


def _write_bart(o):
    c = sizes(o)
    return dict(
        encoder_layers=c["encoder_layers"], encoder_attention_heads=c["encoder_heads"],
        encoder_ffn_dim=c["encoder_ff"], decoder_ffn_dim=o.hidden, is_encoder_decoder=True,
        activation_function=_name(o.act), forced_eos_token_id=None,
    )  # fmt: skip


def _write_marian(o):
    return _write_bart(o) | dict(
        vocab_size=o.encoder_vocab or o.vocab, decoder_vocab_size=o.vocab,
        share_encoder_decoder_embeddings=not o.encoder_vocab,
    )  # fmt: skip


def _write_t5(o):
    gated = "gated-" if o.gated else ""
    name = "gelu_python" if o.gated and o.act == "gelu" else _name(o.act)
    if o.gated and o.act == "gelu_tanh":
        name = "gelu"
    c = dict(
        num_layers=o.encoder_layers or o.layers, d_kv=o.size, d_ff=o.hidden,
        feed_forward_proj=gated + name, is_gated_act=o.gated, dense_act_fn=_name(o.act),
        is_encoder_decoder=o.kind == "encdec", scale_decoder_outputs=o.head_scale,
        tie_word_embeddings=o.tied,
    )  # fmt: skip
    return (
        c if o.kind == "encdec" else {**c, "num_decoder_layers": o.layers, "num_layers": o.layers}
    )


def _write_whisper(o):
    return _write_bart(o) | dict(max_source_positions=o.encoder_context or o.context)


WRITE = {
    "bart": _write_bart, "marian": _write_marian, "t5": _write_t5, "whisper": _write_whisper,
}  # fmt: skip
