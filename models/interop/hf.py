"""Folders of the reference library: `load` makes our variables of one, `export` writes one.

Every tensor of a folder is accounted for: one that is missing, left over or of another shape is an
error that names it. Files that can run code when read are refused.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tokenizers

from models import transformer
from models.interop import (
    about,
    adapters,
    config,
    convs,
    ctranslate,
    describe,
    encdecs,
    encoders,
    gguf,
    pth,
    sentences,
    tensors,
    ties,
    timm,
    timm_nets,
    untrusted,
)
from models.interop.about import About
from models.interop.names import TABLES
from models.interop.rename import flatten, lines, nest
from models.interop.tokens import read_tokenizer, write_tokenizer
from models.options import Options


@dataclasses.dataclass
class Loaded:
    """A model read from a reference folder or GGUF file.

    Attributes:
        options: its options; `family` is one of ours.
        variables: {"params": tree of float32 arrays}, the unrolled form, and other collections that
            the model has (`batch_stats`).
        tokenizer: a raw `tokenizers.Tokenizer`, or None where the folder has none.
        special: ids of bos, eos, pad, unk, -1 where there is none; and of cls, sep, mask.
        chat_template: jinja text, or "".
        config: the parsed config.json, or the metadata of a GGUF file.
        about: the names of classes and how pixels are made, as far as the folder says.
    """

    options: Options
    variables: dict
    tokenizer: tokenizers.Tokenizer | None
    special: dict
    chat_template: str
    config: dict
    about: About = About()


def load(path, under: Loaded | None = None) -> Loaded:
    """The model in a reference folder (config.json, safetensors), a GGUF file (LLaMA), a folder of
    CTranslate2 (Whisper) or a legacy torch file (EfficientNet), which is read without running it; and
    of a PEFT folder, which adapts the reference folder that it names, or `under`.

    Raises FileNotFoundError for what is not there, ValueError for what is malformed or unsupported,
    naming the file and the field or tensor.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected a folder or a .gguf file")
    if path.is_file():
        if path.suffix in (".pth", ".pt"):
            nothing = dict.fromkeys(("bos", "eos", "pad", "unk"), -1)
            return Loaded(*pth.load(path), None, nothing, "", {})
        if path.suffix != ".gguf":
            raise ValueError(f"{path} is neither a folder with config.json nor a .gguf file")
        return Loaded(*gguf.load(path))
    if adapters.found(path):
        return _adapted(path, under or load(adapters.base(path)))
    if not (path / "config.json").is_file():
        found = sorted(path.glob("*.gguf"))
        if len(found) == 1:
            return Loaded(*gguf.load(found[0]))
        raise FileNotFoundError(f"{path} has no config.json (and not exactly one .gguf file)")
    stated = untrusted.read_json(path / "config.json")
    c = _spelled(stated)
    if ctranslate.is_folder(path, c):
        c, files = ctranslate.read(path, read_tokenizer(path, c)[0])
    else:
        files = tensors.open_folder(path)
    o, variables = convert(c, files)
    tokenizer, special, template = read_tokenizer(path, c)
    return Loaded(o, variables, tokenizer, special, template, c, about.read(path, stated, c))


def _adapted(path, under: Loaded) -> Loaded:
    """The base with a PEFT folder's adapters, and with its tokenizer if it brings one."""
    o, params = adapters.added(path, under.options, under.variables["params"])
    told = under.about if len(under.about.labels) in (0, o.labels) else About()
    made = dataclasses.replace(
        under, options=o, variables={**under.variables, "params": params}, about=told
    )
    if (path / "tokenizer.json").is_file():
        made.tokenizer, made.special, made.chat_template = read_tokenizer(path, {})
    return made


def options(path, under: Options | None = None) -> Options:
    """The options of the model in a reference folder; its tensors are looked at, not read."""
    path = Path(path)
    if adapters.found(path):
        return adapters.options(path, under or options(adapters.base(path)))
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} has no config.json; expected a reference folder")
    c = _spelled(untrusted.read_json(path / "config.json"))
    return config.read(c, tensors.open_folder(path))


def told(path) -> About:
    """What a reference folder says of classes and pixels; its tensors are not read."""
    path = Path(path)
    if adapters.found(path):
        return told(adapters.base(path))
    if not (path / "config.json").is_file():
        return About()
    c = untrusted.read_json(path / "config.json")
    return about.read(path, c, _spelled(c))


def _spelled(c: Mapping) -> Mapping:
    """A parsed config.json; one of timm's in the form that `config.read` takes."""
    if "model_type" in c or "architecture" not in c:
        return config.renamed(c)
    return timm_nets.arguments(c) if timm_nets.known(c) else timm.spelled(c)


def convert(c: Mapping, files: tensors.Tensors) -> tuple:
    """(options, variables) of a parsed config.json and its tensors."""
    o = config.read(c, files)
    if max(o.layers, o.encoder_layers) > max(1000, len(files)):
        deep = max(o.layers, o.encoder_layers)
        raise ValueError(f"config.json says {deep:,} layers; there are {len(files):,} tensors")
    table = TABLES[c["model_type"]]
    prefix = table.prefix if any(name.startswith(table.prefix) for name in files) else ""
    o, skip, alias = ties.tie(o, table, ties.embedding(table, o, prefix), files)
    skip = (*skip, *ties.copies(table, o, prefix, files, alias))
    variables, used = {"params": {}}, set(skip)
    for line in lines(table, o, prefix):
        flat = variables.setdefault(line.collection, {})
        theirs = [_found(alias.get(name, name), files) for name in line.theirs]
        if line.counter and theirs[0] not in files:
            flat[line.ours[0]] = np.zeros((), np.int32)
            continue
        for name in theirs:
            _expect(name, line.shape, files)
        used.update(theirs)
        flat.update(zip(line.ours, line.load([files[name] for name in theirs]), strict=True))
    if o.positions == "sinusoidal_halves":
        encdecs.computed(files, o)
    buffers = re.compile(f"({re.escape(prefix)})?({table.ignore})")
    left = sorted(name for name in files if name not in used and not buffers.fullmatch(name))
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ValueError(
            f"the checkpoint holds {left[0]!r:.80}{more}, which a {c['model_type']} lacks"
        )
    return o, {collection: nest(flat) for collection, flat in variables.items()}


def _expect(name, shape, files):
    if name not in files:
        raise ValueError(f"the checkpoint lacks {name!r:.80} of shape {shape}")
    if files.shape(name) != shape:
        raise ValueError(
            f"{name!r:.80} has shape {files.shape(name)}; config.json makes it {shape}"
        )


def _found(name, files):
    """The name, or the one that TensorFlow gave a norm's parameters in old BERT files."""
    for new, old in ((".weight", ".gamma"), (".bias", ".beta")):
        if name not in files and name.endswith(new) and name.removesuffix(new) + old in files:
            return name.removesuffix(new) + old
    return name


def export(
    folder, options: Options, params: Mapping, tokenizer=None, special=None, chat_template="",
    spelling="reference", extra: Mapping | None = None, told: About | None = None,
) -> None:  # fmt: skip
    """Writes config.json, model.safetensors (float32) and, if given, the tokenizer to `folder`.

    Args:
        params: either form of the tree (a scanned one is unstacked).
        extra: the model's other collections, {"batch_stats": ...}, where it has any.
        tokenizer: a raw `tokenizers.Tokenizer`, or None.
        special: ids of bos, eos, pad, unk, cls, sep, mask (-1: none).
        spelling: "reference", or "timm" for models of images.
        told: the names of classes and how pixels are made (preprocessor_config.json).

    Raises ValueError, before anything is written, for options that the reference cannot express or
    a tree that is not of these options, naming the option or parameter.
    """
    told, name = told or About(), None
    options, params = encoders.counted(options, params)
    if spelling == "timm":
        if options.kind not in ("vit", "swin", *convs.FIELDS):
            raise ValueError(
                f"timm has models of images; it cannot hold model.kind={options.kind!r}"
            )
        name, c = (timm_nets if options.kind in convs.FIELDS else describe).spelled(options)
        c = about.timm(told, c)
    elif spelling != "reference":
        raise ValueError(f"spelling is {spelling!r}; expected 'reference' or 'timm'")
    else:
        c = describe.write(options, special, told)
    theirs = rename(options, params, name, extra or {})
    folder, pixels = Path(folder), about.preprocessor(told, options) if name is None else None
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in (("config", c), ("preprocessor_config", pixels)):
        if content is not None:
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (folder / f"{file}.json").write_text(text, encoding="utf-8")
    tensors.write(folder / "model.safetensors", theirs)
    if options.kind == "encoder" and options.head == "embed":
        sentences.write(folder, options)
    if tokenizer is not None:
        write_tokenizer(folder, tokenizer, special or {}, chat_template, options)


def rename(
    options: Options, params: Mapping, name: str | None = None, extra: Mapping | None = None
) -> dict:
    """Our parameters (or gradients of that form) under their names, in their layouts.

    `name` is the table's, if not the one of `describe.kind`. `extra` are the model's other
    collections; without them (None) only parameters are renamed.
    """
    if options.scan:
        params = transformer.unstack(params)
    flat = {"params": flatten(params)}
    flat |= {held: flatten(tree) for held, tree in (extra or {}).items()}
    table, theirs, used = TABLES[name or describe.kind(options)], {}, set()
    for line in lines(table, options, table.before(options)):
        if extra is None and line.collection != "params":
            continue
        mine = flat.get(line.collection, {})
        for path in line.ours:
            if path not in mine:
                place = "parameters" if line.collection == "params" else line.collection
                raise ValueError(f"the {place} lack {path!r:.80}")
        for name, array in zip(line.theirs, line.save([mine[p] for p in line.ours]), strict=True):
            if array.shape != line.shape:
                raise ValueError(f"{line.ours[0]!r:.80} has a shape that is not of these options")
            theirs[name] = array
        used.update((line.collection, path) for path in line.ours)
    left = sorted((held, path) for held in flat for path in flat[held] if (held, path) not in used)
    if left:
        raise ValueError(
            f"the parameters hold {left[0][1]!r:.80}, which has no name in the reference"
        )
    return theirs
