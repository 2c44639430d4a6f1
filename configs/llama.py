"""LLaMA 1, 2 and 3 (Touvron et al. 2023a, 2023b; Grattafiori et al. 2024).

    python -m train --config=configs/llama.py:tiny --workdir=runs/llama
    python -m train --config=configs/llama.py:3-8b --workdir=runs/llama3-8b

`:tiny`: two CPU cores, about a minute, embedded Shakespeare; no published number.
`:7b` to `:65b` are LLaMA 1, `:2-...` and `:3...` the later ones: hundreds of accelerators of 80 GB.
Put a token store, made with the family's tokenizer, at data/llama first. Expected after the whole
recipe: MMLU (5-shot) 35.1 for 7b, 63.4 for 65b, 45.3 for 2-7b, 66.6 for 3-8b.
`:smollm2-135m` is the shape of a LLaMA small enough for one accelerator.

From the papers: AdamW 0.9 / 0.95, decay 0.1, clipping at 1, 2000 updates of warm-up (405b: 8000),
cosine to 10 % (405b: to 8e-7), batches of 4 million tokens (405b: 4, 8, then 16 million, with
sequences of 4096 at first), attention masked between documents in LLaMA 3. Ours, because they are
not published: the initialisation, the schedules of 3.1-8b and 3.1-70b beyond lr and batch, those of
3.2 (distilled in the original) and SmolLM2's, bfloat16, the mesh.
"""

from ml_collections import ConfigDict

from models import families

# size: (learning rate, tokens)
SIZES = {
    "7b": (3e-4, 1.0e12),
    "13b": (3e-4, 1.0e12),
    "33b": (1.5e-4, 1.4e12),
    "65b": (1.5e-4, 1.4e12),
    "2-7b": (3e-4, 2e12),
    "2-13b": (3e-4, 2e12),
    "2-70b": (1.5e-4, 2e12),
    "3-8b": (3e-4, 15e12),
    "3-70b": (1.5e-4, 15e12),
    "3.1-8b": (3e-4, 15e12),
    "3.1-70b": (1.5e-4, 15e12),
    "3.1-405b": (8e-5, 15.6e12),
    "3.2-1b": (3e-4, 9e12),
    "3.2-3b": (3e-4, 9e12),
    "smollm2-135m": (3e-3, 2e12),
}
VARIANTS = ("tiny", *SIZES)
BATCH = 4 * 2**20  # tokens


def get_config(variant="tiny"):
    size = "7b" if variant == "tiny" else variant
    rate, tokens = SIZES[size]
    third = size.startswith(("3-", "3."))
    length = 8192 if third else 4096 if size.startswith("2") else 2048
    config = ConfigDict(
        dict(
            loop="lm",
            seed=0,
            steps=round(tokens / BATCH),
            batch=BATCH // length,
            length=length,
            phases=(),
            model=families.row("llama", size, dtype="bfloat16", scan=True, remat="full"),
            data=dict(
                source="data/llama",
                tokenizer="data/llama/tokenizer",
                packing="documents" if third else "contiguous",
            ),
            optim=dict(
                name="adamw",
                lr=rate,
                schedule="cosine",
                warmup=2000,
                end=0.1,
                b2=0.95,
                eps=1e-5 if size.startswith("2") else 1e-8,
                weight_decay=0.1,
                clip=1.0,
            ),
            mesh=dict(data=1, fsdp=-1, tensor=1),
            eval=dict(every=1000, batches=64),
            checkpoint=dict(every=500, keep=3),
            log=dict(every=10),
        )
    )
    if size == "3.1-405b":  # section 3.4.1: doubled after 252 million and 2.87 trillion tokens
        first = round(252e6 / BATCH)
        second = first + round((2.87e12 - 252e6) / (2 * BATCH))
        config.phases = ((first, 4096, BATCH // 4096), (second, 8192, 2 * BATCH // 8192))
        config.batch = 4 * BATCH // 8192
        config.steps = 1_200_000
        config.optim.update(warmup=8000, end=0.01)
    if size == "smollm2-135m":
        config.optim.update(schedule="wsd", decay_steps=config.steps // 5, end=0.0)
    if variant == "tiny":
        config.update(steps=250, batch=16, length=128)
        config.model = families.row(
            "llama", vocab=1024, context=128, layers=2, width=128, heads=4, kv_heads=2, ff=352
        )
        config.data.update(source="shakespeare", tokenizer="bpe:1024")
        config.optim.update(lr=3e-3, warmup=12)
        config.mesh.update(data=-1, fsdp=1)
        config.eval.update(every=125, batches=0)
        config.checkpoint.update(every=125, keep=1)
        config.log.every = 10
    return config
