"""GPT-3 (Brown et al. 2020, "Language Models are Few-Shot Learners"), table 2.1.

    python -m train --config=configs/gpt3.py:tiny --workdir=runs/gpt3
    python -m train --config=configs/gpt3.py:125m --workdir=runs/gpt3-125m

`:tiny`: two CPU cores, about a minute, embedded Shakespeare; no published number.
`:125m` to `:175b`: 125m to 1.3b on 8 accelerators of 80 GB, 6.7b and up on hundreds. Put a token
store of web text with GPT-2's BPE at data/web first; the paper's mixture was never released.
Expected: the paper reports no losses by number; 175b has zero-shot LAMBADA accuracy 76.2 %.

From the paper: batch sizes and learning rates of table 2.1, Adam 0.9 / 0.95 / 1e-8, clipping at 1,
decay 0.1, warm-up over 375 million tokens, cosine to 10 % over 260 billion, 300 billion tokens in
all, documents packed with an end-of-text token and no mask between them, batches that grow linearly
over the first 4 to 12 billion tokens (here in four steps; the paper starts at 32 thousand tokens).
Not published, so ours: the attention window and the order of dense and banded layers, which size
grows over how many tokens, bfloat16, the mesh. Our schedule counts updates, the paper's tokens.
"""

from ml_collections import ConfigDict

from models import families

# size: (sequences of 2048 in a batch, learning rate, tokens over which the batch grows)
SIZES = {
    "125m": (256, 6.0e-4, 4e9),
    "350m": (256, 3.0e-4, 4e9),
    "760m": (256, 2.5e-4, 4e9),
    "1.3b": (512, 2.0e-4, 8e9),
    "2.7b": (512, 1.6e-4, 8e9),
    "6.7b": (1024, 1.2e-4, 12e9),
    "13b": (1024, 1.0e-4, 12e9),
    "175b": (1536, 0.6e-4, 12e9),
}
VARIANTS = ("tiny", *SIZES)
LENGTH = 2048


def phases(batch: int, tokens: float) -> tuple:
    """Rows (until_step, length, batch): the growth's four quarters, at the mean of each."""
    rows, step = [], 0
    for eighths in (1, 3, 5, 7):
        step += round(tokens / 4 / (batch * eighths // 8 * LENGTH))
        rows.append((step, LENGTH, batch * eighths // 8))
    return tuple(rows)


def updates(rows: tuple, batch: int, tokens: float) -> int:
    """Updates until `tokens` have been seen."""
    start = 0
    for until, length, sequences in rows:
        if (until - start) * length * sequences >= tokens:
            return start + round(tokens / (length * sequences))
        tokens -= (until - start) * length * sequences
        start = until
    return start + round(tokens / (LENGTH * batch))


def get_config(variant="tiny"):
    size = "125m" if variant == "tiny" else variant
    batch, rate, growth = SIZES[size]
    rows = phases(batch, growth)
    config = ConfigDict(
        dict(
            loop="lm",
            seed=0,
            steps=updates(rows, batch, 300e9),
            batch=batch,
            length=LENGTH,
            phases=rows,
            model=families.row("gpt3", size, dtype="bfloat16", scan=True, remat="full"),
            data=dict(source="data/web", tokenizer="gpt2", packing="contiguous"),
            optim=dict(
                name="adamw",
                lr=rate,
                schedule="cosine",
                warmup=updates(rows, batch, 375e6),
                decay_steps=updates(rows, batch, 260e9),
                end=0.1,
                b2=0.95,
                eps=1e-8,
                weight_decay=0.1,
                clip=1.0,
            ),
            mesh=dict(data=1, fsdp=-1, tensor=1),
            eval=dict(every=2000, batches=64),
            checkpoint=dict(every=1000, keep=3),
            log=dict(every=10),
        )
    )
    if variant == "tiny":
        config.update(steps=250, batch=16, length=128, phases=((50, 128, 8),))
        config.model = families.row(
            "gpt3", vocab=1024, context=128, layers=2, width=128, heads=4, window=32
        )
        config.data.update(source="shakespeare", tokenizer="bpe:1024")
        config.optim.update(lr=3e-3, warmup=12, decay_steps=0)
        config.mesh.update(data=-1, fsdp=1)
        config.eval.update(every=125, batches=0)
        config.checkpoint.update(every=125, keep=1)
        config.log.every = 10
    return config
