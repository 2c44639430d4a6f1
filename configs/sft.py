"""Supervised fine-tuning on instructions (Ouyang et al. 2022, section 3.5).

    python -m train --config=configs/sft.py:tiny --workdir=runs/sft
    python -m train --config=configs/sft.py:chat --workdir=runs/chat \
        --config.data.train=CHATS.jsonl --config.init.reference=FOLDER
    python -m train --config=configs/sft.py:lora --workdir=runs/lora \
        --config.data.train=CHATS.jsonl --config.init.reference=FOLDER

`:tiny`: letters to be sorted, made on the spot, from nothing; two CPU cores, about a minute.
Expected: `valid/right`, answers right to the letter, rises from 0 to above 0.7. `:chat`: any decoder of ours or of
the reference library on a file of messages or of prompt and completion, its own chat template, 3
epochs' worth of steps being yours to set; `:lora` the same with adapters of rank 8 (Hu et al. 2021).
No published number: the paper gives none for this stage alone.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "chat", "lora")


def get_config(variant="tiny"):
    config = ConfigDict(
        dict(
            loop="sft",
            seed=0,
            steps=500,
            batch=64,
            length=48,
            model=families.row(
                "gpt2", vocab=288, context=48, layers=2, width=64, heads=4,
                drop_embed=0.0, drop_attn=0.0, drop_resid=0.0,
            ),
            data=dict(
                train="toy:sort",
                valid="",
                valid_share=0.02,
                prompt="text",
                completion="target",
                messages="messages",
                template="turns",
                tokenizer="char",
                loss="completion",
                packing="none",
                truncate=False,
            ),
            optim=dict(name="adamw", lr=4e-3, schedule="cosine", warmup=50, end=0.1, b2=0.98),
            eval=dict(every=250),
            checkpoint=dict(every=250, keep=1),
            log=dict(every=20),
            init=dict(reference="", checkpoint="", model=False),
            lora=dict(rank=0, alpha=16.0, targets=r"attn/(q|v)/kernel$", whole=""),
        )
    )  # fmt: skip
    if variant in ("chat", "lora"):
        config.update(steps=1000, batch=16, length=512)
        config.model = families.row("llama", "smollm2-135m")
        config.data.update(
            train="chats.jsonl",
            valid_share=0.02,
            prompt="prompt",
            completion="completion",
            template="",
            tokenizer="init",
            packing="answers",
            truncate=True,
        )
        config.optim.update(lr=1e-5, warmup=30, schedule="cosine", end=0.1, b2=0.95, clip=1.0)
        config.init.model = True
    if variant == "lora":
        config.lora.rank = 8
        config.optim.lr = 2e-4
    return config
