"""The values that the named options of `models.options` may take."""

CHOICES = {
    "kind": ("decoder", "encoder", "encdec", "resnet", "efficientnet", "vit", "swin", "dvae"),
    "norm": ("layer", "rms", "batch"),
    "norm_place": ("pre", "post", "none"),
    "act": ("gelu", "gelu_tanh", "relu", "silu", "tanh", "relu6", "quick_gelu", "identity"),
    "inner_act": ("", "gelu", "gelu_tanh", "relu", "silu", "tanh", "relu6", "identity"),
    "padding": ("symmetric", "same", "kernel"),
    "positions": (
        "learned", "sinusoidal", "sinusoidal_halves", "sinusoidal_2d", "rotary", "relative", "none",
    ),
    "resize": ("bicubic", "antialias", "linear"),
    "windowing": ("square", "axes"),
    "init": ("normal", "xavier", "mesh", "he"),
    "rope_scaling": ("none", "linear", "llama3"),
    "score_scale": ("sqrt", "none"),
    "head": (
        "lm", "double", "classify", "none", "masked", "pretrain", "pair", "tokens", "spans",
        "choice", "embed", "distilled", "pixels",
    ),
    "head_act": ("", "gelu", "gelu_tanh", "relu", "silu", "tanh", "quick_gelu", "identity"),
    "pool": ("first", "mean", "max"),
    "pool_act": ("tanh", "relu", "gelu", "gelu_tanh", "identity"),
    "score_act": ("identity", "tanh", "relu", "gelu", "gelu_tanh", "silu"),
    "dtype": ("float32", "bfloat16", "float64"),
    "stream": ("dtype", "float32"),
    "remat": ("auto", "none", "full", "dots", "dots_no_batch"),
    "attend": ("auto", "explicit", "blocks", "tiled", "kernel", "banded"),
}  # fmt: skip
HEADS = {  # by the kind of model
    "decoder": ("lm", "classify", "double"),
    "encoder": CHOICES["head"][2:11],
    "encdec": ("lm", "none", "classify", "spans"),
    "resnet": ("none", "classify"),
    "efficientnet": ("none", "classify"),
    "vit": ("classify", "distilled", "none", "masked", "pixels"),
    "swin": ("classify", "none", "pixels"),
    "dvae": ("none",),
}
POOLED = ("none", "pretrain", "pair", "classify", "choice")  # heads that read the pooler
