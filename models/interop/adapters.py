"""Adapter folders of the PEFT library: adapter_config.json and adapter_model.safetensors.

Names come from the family's rename table: a kernel that stands alone in one of their tensors has an
adapter `base_model.model.NAME.lora_A.weight` [r, in] and `lora_B` [out, r]; what is trained whole is
saved under its own name and listed in `modules_to_save`.

Their `lora_dropout` drops the input of `lora_A` in training and changes nothing afterwards. Ours adds
the adapters to the weights before anything is multiplied (`train.core.lora`), where there is no such
input: folders are written with 0.0, and one with another rate is read with a warning.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.interop import describe, tensors, untrusted
from models.interop.names import TABLES
from models.interop.rename import flatten, lines, nest
from models.options import Options

STEM = "base_model.model."
TASKS = {
    "lm": "CAUSAL_LM", "classify": "SEQ_CLS", "tokens": "TOKEN_CLS", "spans": "QUESTION_ANS",
    "embed": "FEATURE_EXTRACTION", "none": "FEATURE_EXTRACTION",
}  # fmt: skip


def _modules(o: Options) -> dict:
    """{our path: (line, their module)} of every array that stands alone in one of their tensors."""
    table, found = TABLES[describe.kind(o)], {}
    for line in lines(table, o, table.before(o)):
        if len(line.ours) == len(line.theirs) == 1:
            found[line.ours[0]] = line, line.theirs[0].rpartition(".")[0]
    return found


def write(folder, o: Options, trained: Mapping, rank: int, alpha: float, base: str = "") -> None:
    """Writes a folder from `{"lora": {path: {a, b}}, ...whole subtrees}`.

    base: what the adapters belong to, for the reader. ValueError, before anything is written, for an
    adapted kernel that the reference stores together with others.
    """
    known, theirs, targets, whole = _modules(o), {}, [], []
    for path, x in sorted(flatten(trained).items()):
        adapter = path.startswith("lora/")
        name = path.removeprefix("lora/").rsplit("/", 1)[0] if adapter else path
        if name not in known:
            raise ValueError(f"{name} has no tensor of its own in the reference's layout")
        line, module = known[name]
        if not adapter:
            theirs[STEM + line.theirs[0]] = line.save([x])[0]
            whole.append(module)
        elif path.endswith("/a"):
            theirs[f"{STEM}{module}.lora_A.weight"] = np.ascontiguousarray(np.asarray(x).T)
            targets.append(module)
        else:
            theirs[f"{STEM}{module}.lora_B.weight"] = np.ascontiguousarray(np.asarray(x).T)
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if o.kind == "encdec" else TASKS.get(o.head),
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(set(targets)),
        "modules_to_save": sorted(set(whole)) or None,
        "inference_mode": True,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    tensors.write(folder / "adapter_model.safetensors", theirs)


def read(folder, o: Options) -> tuple[dict, int, float]:
    """(trained tree, rank, alpha) of a folder for a model with these options.

    Every tensor must have a place: ValueError names one that has none, a shape that does not fit, or
    a kind of adapter that is not LoRA as we compute it (ranks by module, biases, DoRA). A folder that
    was trained with `lora_dropout` gives a UserWarning: it computes the same, but trains on without.
    """
    folder = Path(folder)
    config = untrusted.read_json(folder / "adapter_config.json")
    _refuse(folder, config)
    if config.get("lora_dropout"):
        warnings.warn(
            f"{folder} was trained with lora_dropout={config['lora_dropout']!r:.20} on the adapters' "
            "inputs; its outputs are the same here, but training on from it drops none of them",
            stacklevel=2,
        )
    rank, alpha = config["r"], float(config["lora_alpha"])
    files = tensors.open_folder(folder)
    places, made = {}, {}
    for path, (line, module) in _modules(o).items():
        places[STEM + line.theirs[0]] = path, line
        if line.theirs[0].endswith(".weight") and len(line.shape) == 2:
            places[f"{STEM}{module}.lora_A.weight"] = f"lora/{path}/a", None
            places[f"{STEM}{module}.lora_B.weight"] = f"lora/{path}/b", None
    for name in files:
        if name not in places:
            raise ValueError(f"{folder} holds {name!r:.120}, which this model has no place for")
        path, line = places[name]
        if line is not None:
            if files.shape(name) != line.shape:
                raise ValueError(f"{name!r:.120} has shape {files.shape(name)}; not {line.shape}")
            made[path] = line.load([files[name]])[0]
        else:
            if files.shape(name)[0 if path.endswith("/a") else 1] != rank:
                raise ValueError(f"{name!r:.120} has shape {files.shape(name)}; the rank is {rank}")
            made[path] = np.ascontiguousarray(np.asarray(files[name], np.float32).T)
    return nest(made), rank, alpha


def _refuse(folder, config):
    if config.get("peft_type") != "LORA" or not isinstance(config.get("r"), int):
        raise ValueError(f"{folder} is no LoRA adapter: peft_type is {config.get('peft_type')!r}")
    for name, off in (
        ("bias", "none"), ("use_dora", False), ("use_rslora", False), ("rank_pattern", {}),
        ("alpha_pattern", {}), ("lora_bias", False),
    ):  # fmt: skip
        if config.get(name, off) not in (off, None):
            raise ValueError(
                f"{folder}: {name}={config[name]!r} is not supported; expected {off!r}"
            )
