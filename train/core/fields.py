"""What a loop reads of a config beyond what every loop reads (`config.DEFAULTS`).

A field or a section that is named neither there nor for any loop here is a mistake; what another loop
reads may stand in a config that several share. What a section of the loop's own holds, such as `ppo`,
is said where that is read (`sections.section`).
"""

_TABLE = ("train", "valid", "valid_share", "truncate")
_COMPARED = (*_TABLE, "template", "rounds", "seed")
_TEXTS = (
    *_TABLE, "test", "test_share", "group", "rank", "task", "labels", "class_weights", "balanced",
    "temperature", "text", "pair", "label", "words", "tags", "choices", "question", "context",
    "answers", "negative", "cut", "pool", "stride", "longest", "threshold",
)  # fmt: skip
_PAIRS = (
    *_TABLE, "test", "test_share", "group", "text", "target", "prefix", "task", "tokens", "least",
    "target_length", "noise",
)  # fmt: skip
_PICTURES = (
    "valid", "valid_share", "task", "labelled", "bad", "workers", "crop_share", "resample",
    "max_pixels", "mean", "deviation",
)  # fmt: skip

# {loop: (top level, data)}
OWN = {
    "lm": ((), ()),
    "mlm": ((), ("pair", "short", "masking")),
    "classify": (("layer_decay", "lora"), _TEXTS),
    "seq2seq": (("smoothing", "decode", "average"), _PAIRS),
    "vision": (("augment", "distill", "frozen_stats", "layer_decay", "smooth"), _PICTURES),
    "mim": (("augment", "mask", "tokenizer"), _PICTURES),
    "dvae": (("augment", "divergence", "temperature"), _PICTURES),
    "sft": (("lora",), (*_TABLE, "prompt", "completion", "messages", "template", "loss")),
    "reward": (("lora", "reward", "layer_decay"), _COMPARED),
    "preference": (("lora", "preference", "reference"), _COMPARED),
    "ppo": (
        ("kl", "ppo", "reward", "mix", "reference"),
        ("train", "valid", "valid_share", "prompt", "target", "template"),
    ),
    "qlearning": (("q", "world"), ()),
}  # fmt: skip
# Of all loops.
TOP = tuple(dict.fromkeys(name for top, _ in OWN.values() for name in top))
DATA = tuple(dict.fromkeys(name for _, data in OWN.values() for name in data))
