"""A run small enough to be killed twenty times: a config for `python -m train`, and its children."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from models import families
from train.core import checkpoint, forms

ROOT = Path(__file__).resolve().parents[2]


def get_config():
    return ConfigDict(
        dict(
            loop="lm",
            seed=0,
            steps=120,
            batch=4,
            length=16,
            model=families.row(
                "gpt2", vocab=384, context=32, layers=1, width=16, heads=2, ff=32,
                drop_embed=0.1, drop_attn=0.0, drop_resid=0.1,
            ),
            data=dict(source="given by start", tokenizer="byte", heldout=("works1",)),
            optim=dict(name="adamw", lr=3e-3, warmup=5, clip=1.0, ema=0.9),
            eval=dict(batches=2),
            checkpoint=dict(every=4, keep=2),
            log=dict(every=1, tensorboard=False, peak=1e12),
        )
    )  # fmt: skip


def works(workdir) -> Path:
    """Four short works, beside the workdir."""
    path = Path(workdir).parent / "works.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        r = np.random.default_rng(0)
        texts = ["".join(r.choice(list("abcdefgh  "), 2000)) for _ in range(4)]
        lines = [json.dumps({"name": f"works{i}", "text": text}) for i, text in enumerate(texts)]
        path.write_text("\n".join(lines) + "\n")
    return path


def start(workdir, *flags, module=("train",), **environ) -> subprocess.Popen:
    """`python -m train` of this config in a process of its own, stdout and stderr in one pipe.

    `module` is run instead of train, with what follows its name before the other arguments.
    """
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1", **environ}
    command = [sys.executable, "-m", *module, f"--config={__file__}", f"--workdir={workdir}"]
    command.append(f"--config.data.source={works(workdir)}")
    return subprocess.Popen(
        [*command, *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, seconds=600) -> tuple[int, str]:
    """(exit status, output) of a child that ends by itself."""
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


def digest(folder) -> str:
    """SHA-256 over the names and bytes of every array of a checkpoint, optimiser included."""
    held = checkpoint.inside(folder)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), held)
    found = hashlib.sha256()
    for name, x in sorted(forms.flat(checkpoint.load_arrays(folder, wanted)).items()):
        found.update(name.encode())
        found.update(np.ascontiguousarray(x).tobytes())
    return found.hexdigest()


def steps(workdir) -> list[str]:
    """Finished checkpoints by name."""
    return [folder.name for folder in checkpoint.folders(workdir)]
