"""config.json of the encoders <-> `Options`: their fields, heads and the way back.

`models.interop.config` and `models.interop.describe` take these tables beside their own.
"""

from collections.abc import Mapping

import numpy as np

from models.interop.fields import act, get, labels, shortest
from models.options import Options

_NAMES = {"gelu_tanh": "gelu_new", "identity": "linear"}  # activations, where theirs differ
_BERT = (  # (their field, its other spelling, our option, their default)
    ("vocab_size", "", "vocab", 30522),
    ("hidden_size", "", "width", 768),
    ("num_hidden_layers", "", "layers", 12),
    ("num_attention_heads", "", "heads", 12),
    ("intermediate_size", "", "ff", 3072),
    ("hidden_dropout_prob", "", "drop_resid", 0.1),
    ("attention_probs_dropout_prob", "", "drop_attn", 0.1),
    ("max_position_embeddings", "", "context", 512),
    ("type_vocab_size", "", "token_types", 2),
    ("initializer_range", "", "init_std", 0.02),
    ("layer_norm_eps", "", "norm_eps", 1e-12),
    ("tie_word_embeddings", "", "tied", True),
)
_ALBERT = {
    "vocab_size": 30000, "hidden_size": 4096, "num_attention_heads": 64, "intermediate_size": 16384,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
_DISTIL = (
    ("vocab_size", "", "vocab", 30522),
    ("dim", "hidden_size", "width", 768),
    ("n_layers", "num_hidden_layers", "layers", 6),
    ("n_heads", "num_attention_heads", "heads", 12),
    ("hidden_dim", "", "ff", 3072),
    ("dropout", "", "drop_resid", 0.1),
    ("attention_dropout", "", "drop_attn", 0.1),
    ("max_position_embeddings", "", "context", 512),
    ("initializer_range", "", "init_std", 0.02),
    ("tie_word_embeddings", "", "tied", True),
)
FIELDS = {
    "bert": _BERT,
    "roberta": tuple((f, a, o, 50265 if f == "vocab_size" else d) for f, a, o, d in _BERT),
    "longformer": _BERT,
    "albert": (
        *((f, a, o, _ALBERT.get(f, d)) for f, a, o, d in _BERT),
        ("embedding_size", "", "embed_width", 128),
        ("num_hidden_groups", "", "share_groups", 1),
        ("inner_group_num", "", "share_inner", 1),
    ),
    "distilbert": _DISTIL,
}
FAMILY = {name: name for name in FIELDS} | {"distilbert": "bert"}
BODY = {
    "bert": "Bert", "roberta": "Roberta", "longformer": "Longformer", "albert": "Albert",
    "distilbert": "DistilBert",
}  # fmt: skip
ALLOWED = {
    "bert": ("is_decoder", "add_cross_attention"),
    "roberta": ("is_decoder", "add_cross_attention"),
}
_HEADS = {  # the ends of their architectures' names
    "ForPreTraining": "pretrain", "ForMaskedLM": "masked", "LMHeadModel": "masked",
    "ForCausalLM": "masked", "ForNextSentencePrediction": "pair",
    "ForSequenceClassification": "classify", "ForMultipleChoice": "choice",
    "ForTokenClassification": "tokens", "ForQuestionAnswering": "spans", "Model": "none",
}  # fmt: skip
_SIGNS = (  # tensors that tell a head where no architecture is stated
    (r"lm_head.layer_norm.weight", "masked"),
    (r"cls.predictions.bias", "masked"),
    (r"predictions.bias", "masked"),
    (r"vocab_projector.bias", "masked"),
    (r"cls.seq_relationship.weight", "pair"),
    (r"qa_outputs.weight", "spans"),
    (r"classifier.out_proj.weight", "classify"),
    (r"classifier.weight", "classify"),
)
_PAIRS = ("cls.seq_relationship.weight", "sop_classifier.classifier.weight")


def _common(c: Mapping, o: dict, activation: str, drop: str) -> dict:
    """What all of them are, and what their configs say likewise."""
    rate = c.get(drop)
    rate = o["drop_resid"] if rate is None else get(c, drop, 0.0, float)
    return dict(
        kind="encoder", norm_place="post", final_norm=False, embed_norm=True, causal=False,
        act=act(c, *activation), drop_embed=o["drop_resid"], drop_head=rate, pooler=True,
        pool_act="tanh",
    )  # fmt: skip


def _read_bert(c, o):
    if c.get("position_embedding_type") not in (None, "absolute"):
        found = c["position_embedding_type"]
        raise ValueError(f"config.json: position_embedding_type = {found!r:.60} is not supported")
    return dict(
        **_common(c, o, ("hidden_act", "gelu"), "classifier_dropout"),
    ) | dict(
        causal=get(c, "is_decoder", False, bool), cross=get(c, "add_cross_attention", False, bool)
    )  # fmt: skip


def _read_roberta(c, o):
    pad = get(c, "pad_token_id", 1, int)
    if not 0 <= pad < o["context"] - 1:
        raise ValueError(f"config.json: pad_token_id = {pad} leaves no row for a position")
    return _read_bert(c, o) | dict(
        position_pad=pad, position_offset=pad + 1, context=o["context"] - pad - 1, head_act="gelu",
        drop_pool=True,
    )  # fmt: skip


def _read_longformer(c, o):
    windows = c.get("attention_window", 512)
    windows = windows if isinstance(windows, list) else [windows] * max(o["layers"], 1)
    if len(windows) != o["layers"] or any(type(w) is not int for w in windows):
        raise ValueError(
            f"config.json: attention_window is {windows!r:.80}; expected an even number, or one for "
            f"each of the {o['layers']} layers"
        )
    return _read_roberta({k: v for k, v in c.items() if k != "is_decoder"}, o) | dict(
        windows=shortest(windows), causal=False, cross=False
    )


def _read_albert(c, o):
    rate = get(c, "classifier_dropout_prob", 0.1, float)
    found = _common(c, o, ("hidden_act", "gelu_new"), "classifier_dropout_prob")
    return found | dict(drop_head=rate)


def _read_distilbert(c, o):
    return _common(c, o, ("activation", "gelu"), "seq_classif_dropout") | dict(
        token_types=0, norm_eps=1e-12, pool_act="relu"
    )


READ = {
    "bert": _read_bert, "roberta": _read_roberta, "longformer": _read_longformer,
    "albert": _read_albert, "distilbert": _read_distilbert,
}  # fmt: skip


def read_head(c: Mapping, names, o: dict) -> dict:
    """The head: the architecture's, or told by the tensors; a pair head beside a masked-language
    head makes it "pretrain", whatever is stated (hub files of BERT hold both)."""
    stated = c.get("architectures") or [""]
    stated = stated[0] if isinstance(stated, list) and isinstance(stated[0], str) else ""
    ends = [head for end, head in _HEADS.items() if stated.endswith(end)]
    if stated and not ends:
        raise ValueError(f"config.json: architectures names {stated}, a head that is not supported")
    signs = [head for name, head in _SIGNS if name in names]
    head = ends[0] if ends else signs[0] if signs else "none"
    if "masked" in signs and any(name in names for name in _PAIRS):
        head = "pretrain"
    found = dict(head=head)
    if head in ("classify", "tokens"):
        found["labels"] = labels(c)
    if head == "none" and names:
        found["pooler"] = any("pooler." in name for name in names)
    return found


def kind(o: Options) -> str:
    """The model_type that serves an encoder."""
    if o.windows:
        return "longformer"
    if o.share_groups:
        return "albert"
    if o.position_pad >= 0:
        return "roberta"
    return "bert" if o.token_types else "distilbert"


def counted(o: Options, params: Mapping) -> tuple:
    """(options, parameters) whose positions begin after the padding's id, as RoBERTa's do.

    The reference finds the first row of the table by that id; ours may begin elsewhere. Rows before it
    are never read: zeros are put there, or what is too much is left out.
    """
    more = o.position_pad + 1 - o.position_offset
    if o.kind != "encoder" or o.position_pad < 0 or not more:
        return o, params
    table = np.asarray(params["embed"]["positions"]["embedding"])
    front = np.zeros((max(more, 0), table.shape[1]), table.dtype)
    table = np.concatenate([front, table[max(-more, 0) :]])
    embed = {**params["embed"], "positions": {"embedding": table}}
    return o.replace(position_offset=o.position_pad + 1), {**params, "embed": embed}


def architecture(o: Options, name: str) -> str:
    """The end of the architecture's name."""
    if o.head == "masked" and o.causal:
        return "LMHeadModel" if name == "bert" else "ForCausalLM"
    return {head: end for end, head in reversed(_HEADS.items())}.get(o.head, "Model")


def idle(o: Options) -> list:
    """Options that an encoder's head leaves without effect."""
    found = ["score_bias", "score_act", "head_bias"]
    if o.head not in ("classify", "tokens"):
        found += ["labels"]
    if o.head not in ("masked", "pretrain"):
        found += ["tied", "head_act"]
    if not o.pools or o.head == "none":
        found += ["pooler"]
    if not o.pools:
        found += ["pool_act"]
    if o.head not in ("none", "pretrain", "pair", "classify", "choice"):
        found += ["pool"]
    return found


def _write(o: Options) -> dict:
    return dict(
        hidden_act=_NAMES.get(o.act, o.act), intermediate_size=o.hidden,
        max_position_embeddings=o.context + o.position_offset,
    )  # fmt: skip


def _write_bert(o):
    return _write(o) | dict(
        classifier_dropout=o.drop_head, is_decoder=o.causal, add_cross_attention=o.cross,
        position_embedding_type="absolute",
    )  # fmt: skip


def _write_longformer(o):
    return _write(o) | dict(attention_window=list(o.kinds()))


def _write_albert(o):
    return _write(o) | dict(classifier_dropout_prob=o.drop_head)


def _write_distilbert(o):
    return dict(
        activation=_NAMES.get(o.act, o.act), hidden_dim=o.hidden, seq_classif_dropout=o.drop_head,
        qa_dropout=0.0, sinusoidal_pos_embds=False,
    )  # fmt: skip


WRITE = {
    "bert": _write_bert, "roberta": _write_bert, "longformer": _write_longformer,
    "albert": _write_albert, "distilbert": _write_distilbert,
}  # fmt: skip
