"""Adapter folders of the PEFT library: adapter_config.json and adapter_model.safetensors.

Names come from the family's rename table: a kernel that stands alone in one of their tensors has an
adapter `base_model.model.NAME.lora_A.weight` [r, in] and `lora_B` [out, r], a table of embeddings
`lora_embedding_A` [r, V] and `lora_embedding_B` [D, r]; what is trained whole is saved under its own name
and listed in `modules_to_save`.

Their `lora_dropout` drops the input of `lora_A` in training and changes nothing afterwards. Ours adds
the adapters to the weights before anything is multiplied (`train.core.lora`), where there is no such
input: folders are written with 0.0, and one with another rate is read with a warning.

A folder holds no model: `base` is the place of the one that it adapts, `added` puts both together.
"""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.interop import adapter_config, describe, tensors, untrusted
from models.interop.names import TABLES
from models.interop.rename import flatten, lines, nest
from models.options import Options

STEM = "base_model.model."
TASKS = {
    "lm": "CAUSAL_LM", "classify": "SEQ_CLS", "tokens": "TOKEN_CLS", "spans": "QUESTION_ANS",
    "embed": "FEATURE_EXTRACTION", "none": "FEATURE_EXTRACTION",
}  # fmt: skip
HEADS = {task: head for head, task in TASKS.items() if head != "lm"}
NAME = "adapter_config.json"
_HALVES = ("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")


def found(path) -> bool:
    """Whether a path is a PEFT folder."""
    return (Path(path) / NAME).is_file()


def base(folder) -> Path:
    """Where the model lies that a folder adapts: `base_model_name_or_path`, as seen from here or from
    the folder. Nothing is fetched: FileNotFoundError where there is no such place."""
    at, seen = Path(folder), set()
    while found(at):
        if at.resolve() in seen:
            raise ValueError(f"{folder} adapts itself, by way of base_model_name_or_path")
        seen.add(at.resolve())
        at = _named(at)
    return _named(Path(folder))


def _named(folder: Path) -> Path:
    name = untrusted.read_json(folder / NAME).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{folder / NAME} has base_model_name_or_path={name!r:.80}; expected the folder of the "
            "model that it adapts"
        )
    for path in (Path(name), folder / name):
        if os.path.exists(path):
            return path
    raise FileNotFoundError(
        f"{folder} adapts {name!r:.120}, which is not here; put the model there, or write its folder "
        f"into {NAME} as base_model_name_or_path"
    )


def options(folder, o: Options) -> Options:
    """The options of the adapted model, of those of the base: its head and how many labels it has."""
    folder = Path(folder)
    config, files = untrusted.read_json(folder / NAME), tensors.open_folder(folder)
    head = HEADS.get(config.get("task_type"), o.head)
    head = o.head if {head, o.head} == {"none", "embed"} else head
    counts = head in ("classify", "tokens")
    o = o.replace(head=head, labels=(o.labels or 1) if counts else 0) if head != o.head else o
    there = lambda path, o: (line := _modules(o).get(path)) and STEM + line[0].theirs[0] in files
    if o.kind == "encoder" and not o.pooler and there("pool/kernel", o.replace(pooler=True)):
        o = o.replace(pooler=True)
    if counts and there("score/kernel", o):
        o = o.replace(labels=files.shape(STEM + _modules(o)["score/kernel"][0].theirs[0])[0])
    return o


def added(folder, o: Options, params: Mapping) -> tuple[Options, dict]:
    """(options, parameters) of the base with these ones, in the unrolled form, and the folder's adapters.

    What the adapted model's head does not use of the base is left out. ValueError names a parameter
    that neither of them has.
    """
    o = options(folder, o)
    trained, rank, alpha = read(folder, o)
    ours, under, made = flatten(trained), flatten(params), {}
    table = TABLES[describe.kind(o)]
    rows = [line for line in lines(table, o, table.before(o)) if line.collection == "params"]
    for path in (path for line in rows for path in line.ours):
        if path not in ours and path not in under:
            raise ValueError(f"neither {folder} nor the model that it adapts holds {path!r:.80}")
        made[path] = np.asarray(ours.get(path, under.get(path)))
        if f"lora/{path}/a" in ours:
            delta = alpha / rank * (ours[f"lora/{path}/a"] @ ours[f"lora/{path}/b"])
            made[path] = made[path] + delta.reshape(made[path].shape)
    return o, nest(made)


def _modules(o: Options) -> dict:
    """{our path: (line, their module)} of every array that stands alone in one of their tensors."""
    table, found = TABLES[describe.kind(o)], {}
    for line in lines(table, o, table.before(o)):
        if len(line.ours) == len(line.theirs) == 1:
            found[line.ours[0]] = line, line.theirs[0].rpartition(".")[0]
    return found


def write(
    folder, o: Options, trained: Mapping, rank: int, alpha: float, base: str = "", under=None
) -> None:
    """Writes a folder from `{"lora": {path: {a, b}}, ...whole subtrees}`.

    base: what the adapters belong to, for the reader; under: its parameters, of which the head's are
    taken that the reference saves whole and this run has not trained. ValueError, before anything is
    written, for an adapted kernel that the reference stores together with others, or ties to the head.
    """
    task = "SEQ_2_SEQ_LM" if o.kind == "encdec" else TASKS.get(o.head)
    known, theirs, targets, whole = _modules(o), {}, [], []
    ours = flatten(trained)
    ours |= _kept(known, task, ours, flatten(under or {}))
    for path, x in sorted(ours.items()):
        adapter = path.startswith("lora/")
        name = path.removeprefix("lora/").rsplit("/", 1)[0] if adapter else path
        if name not in known:
            raise ValueError(f"{name} has no tensor of its own in the reference's layout")
        line, module = known[name]
        if not adapter:
            theirs[STEM + line.theirs[0]] = line.save([x])[0]
            whole.append(adapter_config.kept(task, module) or module)
            continue
        _untied(name, o)
        half = _HALVES[name.endswith("/embedding")][path.endswith("/b")]
        theirs[f"{STEM}{module}.{half}"] = np.ascontiguousarray(np.asarray(x).T)
        targets.append(module)
    config = {
        "peft_type": "LORA",
        "task_type": task,
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
    (folder / NAME).write_text(text, encoding="utf-8")
    tensors.write(folder / "adapter_model.safetensors", theirs)


def _kept(known, task, ours, under) -> dict:
    """The parameters of `under` that a folder must hold besides: whole modules of the task's head."""
    found = {}
    for path, (_, module) in known.items():
        if adapter_config.kept(task, module) and path not in ours:
            if path not in under:
                raise ValueError(
                    f"the reference saves {module} whole with the head; {path} is not trained: "
                    "config.lora.whole must match it"
                )
            found[path] = under[path]
    return found


def _untied(path, o: Options):
    """ValueError for an adapter of a token table that is the language head's kernel, too."""
    if path == "embed/tokens/embedding" and o.tied and o.head in ("lm", "masked", "pretrain"):
        raise ValueError(
            f"{path} is also the kernel of the head (model.tied), where the reference has no adapter"
        )


def read(folder, o: Options) -> tuple[dict, int, float]:
    """(trained tree, rank, alpha) of a folder for a model with these options.

    The adapters are those of one alpha / rank: where a folder has several ranks or scales (`use_rslora`,
    `rank_pattern`, `alpha_pattern`), `b` holds the difference. Every tensor must have a place: ValueError
    names one that has none, a shape that does not fit, or a kind of adapter that is not LoRA as we
    compute it (biases, DoRA, changed bases). A folder that was trained with `lora_dropout` gives a
    UserWarning: it computes the same, but trains on without.
    """
    folder = Path(folder)
    config = untrusted.read_json(folder / NAME)
    adapter_config.check(folder, config)
    if config.get("lora_dropout"):
        warnings.warn(
            f"{folder} was trained with lora_dropout={config['lora_dropout']!r:.20} on the adapters' "
            "inputs; its outputs are the same here, but training on from it drops none of them",
            stacklevel=2,
        )
    rank, alpha = config["r"], float(config["lora_alpha"])
    files, made = tensors.open_folder(folder), {}
    places = _places(o, config)
    for name in files:
        if name not in places:
            raise ValueError(f"{folder} holds {name!r:.120}, which this model has no place for")
        path, line, shape, own = places[name]
        if files.shape(name) != shape:
            more = f", as the rank is {own[0]}" if line is None else ""
            raise ValueError(f"{name!r:.120} has shape {files.shape(name)}; expected {shape}{more}")
        plain = np.asarray(files[name], np.float32)
        if line is not None:
            made[path] = line.load([plain])[0]
            continue
        _untied(path.removeprefix("lora/").rsplit("/", 1)[0], o)
        more = own[1] / (alpha / rank) if path.endswith("/b") else 1.0
        made[path] = np.ascontiguousarray(plain.T) * np.float32(more)
    _paired(folder, made, {place: name for name, (place, *_) in places.items()})
    return nest(made), rank, alpha


def _places(o: Options, config) -> dict:
    """{their name: (our path, its line or None for half an adapter, shape, (rank, scale))}."""
    places = {}
    for path, (line, module) in _modules(o).items():
        own = adapter_config.scale(config, module)
        places[STEM + line.theirs[0]] = path, line, line.shape, own
        if line.theirs[0].endswith(".weight") and len(line.shape) == 2:
            inward, out = line.matrix
            shapes = (own[0], inward), (out, own[0])
            kinds = _HALVES if path.endswith("/embedding") else _HALVES[:1]  # ours had the first
            for halves in kinds:
                for half, letter, shape in zip(halves, "ab", shapes, strict=True):
                    places[f"{STEM}{module}.{half}"] = f"lora/{path}/{letter}", None, shape, own
    return places


def _paired(folder, made, names):
    """ValueError for half an adapter."""
    for path in [path for path in made if path.startswith("lora/")]:
        other = path[:-1] + ("b" if path.endswith("/a") else "a")
        if other not in made:
            raise ValueError(f"{folder} holds {names[path]!r:.120} without {names[other]!r:.120}")
