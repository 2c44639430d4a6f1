"""What the torch peer is given: our batches, our held-out works and our learning rates, as arrays.

Both sides read the same tokens in the same order: the stream of `train.data.text` is a pure function
of (seed, step), so its batches are written down once per seed and the peer maps them.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

SHIM = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"
# Parts of a recipe that the peer does not have, with the value that means "not used". The report
# names the ones that a config uses.
OURS_ONLY = {"ema": 0.0, "freeze": "", "multipliers": (), "state_dtype": "float32"}


def write_batches(folder: Path, batches) -> Path:
    """Writes an iterable of {"tokens", "targets", "weights"} as flat arrays and their shapes.

    Weights are left out where all are one. ValueError for packed documents (`segments`), whose
    attention mask the peer does not have.
    """
    parts = {"tokens": [], "targets": [], "weights": []}
    shapes = []
    for batch in batches:
        if "segments" in batch and len(np.unique(batch["segments"][batch["segments"] > 0])) > 1:
            raise ValueError('the bench needs data.packing="contiguous": the peer has no segments')
        shapes.append(batch["tokens"].shape)
        for name, rows in parts.items():
            rows.append(np.asarray(batch[name]).reshape(-1))
    if not shapes:
        raise ValueError("no batches to write")
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        flat = np.concatenate(rows)
        if name != "weights":
            if flat.max() >= 2**16:
                flat = flat.astype(np.uint32)
            else:
                flat = flat.astype(np.uint16)
        elif (flat == 1).all():
            continue
        np.save(folder / f"{name}.npy", flat)
    np.save(folder / "shapes.npy", np.asarray(shapes, np.int64))
    return folder


def steps_in(folder: Path) -> int:
    """How many batches the folder holds; 0 where there is none."""
    path = folder / "shapes.npy"
    return len(np.load(path)) if path.exists() else 0


def job(path: Path, model: dict, optim, rates, **more) -> Path:
    """Writes the peer's job: architecture, recipe, and the learning rate of every step.

    `model` holds the options of `models.options`, `optim` is the config's section, `more` the data,
    seed, points and settings that `scripts.bench.nanogpt` reads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path.with_suffix(".npy"), np.asarray(rates, np.float64))
    recipe = {name: optim[name] for name in ("b1", "b2", "eps", "weight_decay", "decay", "clip")}
    content = {
        "model": model,
        "rates": str(path.with_suffix(".npy")),
        "steps": len(rates),
        **recipe,
        **more,
    }
    path.write_text(json.dumps(content, indent=1))
    return path


def differences(optim) -> list:
    """What of our recipe the peer does not have, in words."""
    found = [] if optim.name == "adamw" else [f"optim.name={optim.name} (peer: adamw)"]
    found += [
        f"optim.{name}={optim[name]!r}"
        for name, unused in OURS_ONLY.items()
        if name in optim and optim[name] != unused
    ]
    return found


def shim(folder: Path) -> Path | None:
    """Builds the library that lets MKL use AVX-512 on processors of other makers; None without a compiler.

    MKL asks `mkl_serv_intel_cpu_true` before it picks its kernels; preloading one that answers yes
    is the usual remedy (pytorch/pytorch#38412) and doubles matrix products on AMD.
    """
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    source, library = folder / "mkl_shim.c", folder / "mkl_shim.so"
    source.write_text(SHIM)
    built = subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)])
    return library if built.returncode == 0 else None
