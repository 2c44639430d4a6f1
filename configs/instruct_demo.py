"""The stages of InstructGPT (Ouyang et al. 2022) at a size that two cores carry through in minutes.

    python -m scripts.instruct --out runs/instruct

runs all of them, one after the other, on reviews that follow a request (`scripts.instruct.task`): it
writes each stage's data, samples and ranks answers (`--cell sft:1024:0.05:page` through the labelling
page), and measures against a judge that no stage has seen. By hand, a stage is

    python -m train --config=configs/instruct_demo.py:sft --workdir=runs/demo-sft \
        --config.data.train=REVIEWS.jsonl
    python -m train --config=configs/instruct_demo.py:reward --workdir=runs/demo-reward \
        --config.data.train=RANKINGS.jsonl --config.init.checkpoint=runs/demo-sft
    python -m train --config=configs/instruct_demo.py:ppo --workdir=runs/demo-ppo \
        --config.data.train=REQUESTS.jsonl --config.init.checkpoint=runs/demo-sft \
        --config.reward.checkpoint=runs/demo-reward/best

`:sft` fine-tunes a GPT-2 of two layers of 64, `:reward` learns from rankings of four (the K-way loss),
`:ppo` is the paper's: KL to the fine-tuned policy in the reward (beta .05), values that start as the
reward model, 60 rounds of 64 answers. Settings were tuned on seeds of 100 and up and are frozen. Two
CPU cores. No published number: the task is ours, README.md has what was measured.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("sft", "reward", "ppo")
NEW, ROOM, VOCAB = 20, 12, 352  # tokens of an answer, of a request, of the vocabulary
QUIET = dict(drop_embed=0.0, drop_attn=0.0, drop_resid=0.0, drop_head=0.0)
SIZE = dict(vocab=VOCAB, context=NEW + ROOM, layers=2, width=64, heads=4, **QUIET)
STEPS = {"sft": 500, "reward": 200, "ppo": 240}
PARTS = {
    "sft": dict(
        batch=128, model=families.row("gpt2", **SIZE), lora=dict(rank=0), init=dict(model=False),
        data=dict(train="reviews.jsonl", valid="", valid_share=0.02, tokenizer=f"word:{VOCAB}",
                  packing="none", loss="completion", template=""),
    ),
    "reward": dict(
        batch=32, lora=dict(rank=0), reward=dict(margin=0.0), eval=dict(every=33),
        model=families.row("gpt2", **SIZE, head="classify", labels=1, score_bias=True),
        data=dict(train="rankings.jsonl", valid="", valid_share=0.15, tokenizer="init", template="",
                  truncate=True),
        init=dict(checkpoint="", reference="", model=False),
        best=dict(metric="valid/nll", mode="min", patience=0),
    ),
    "ppo": dict(
        batch=64, model=families.row("gpt2", **SIZE), kl=dict(beta=0.05),
        ppo=dict(method="ppo", epochs=2, minibatches=2, new=NEW, old="scored"),
        reward=dict(kind="model", checkpoint="", normalise=True),
        data=dict(train="requests.jsonl", valid="", valid_share=0.0, tokenizer="init", template=""),
        init=dict(checkpoint="", reference="", model=False),
    ),
}  # fmt: skip


def get_config(variant="sft"):
    steps = STEPS[variant]
    config = ConfigDict(
        dict(
            loop=variant,
            seed=0,
            steps=steps,
            length=NEW + ROOM,
            optim=dict(
                name="adamw",
                lr=3e-4 if variant == "ppo" else 3e-3,
                schedule="linear",
                warmup=steps // 20,
                end=0.0,
                eps=1e-5,
                clip=1.0,
            ),
            log=dict(every=steps // 10, tensorboard=False),
            checkpoint=dict(every=0, keep=1),
        )
    )
    config.update(PARTS[variant])
    return config
