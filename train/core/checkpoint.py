"""Checkpoints: `workdir/checkpoints/{step}/`, each of which describes itself.

    state/           arrays, by Orbax: params, ema, extra, ema_extra, guard, and train (step,
                     opt_state, carry)
    config.json      the resolved config      run.json   provenance and the data's fingerprint
    tokenizer/       the tokenizer            INTEGRITY.json   size and xxh3-128 of every file
    labels.json      the names of classes, where there are any

Arrays stand under per-layer names whether or not the run scans its layers (`train.core.forms`).
INTEGRITY.json is written last, by process 0 (`train.core.saver`). Orbax finds truncated and missing
files but not flipped bits, and casts dtypes silently; both are looked for before anything is used.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from models.build import build, shapes
from models.interop.untrusted import parse, read_json
from models.options import Options
from train.core import forms, integrity, legacy
from train.core.saver import written
from train.core.state import State

LABELS = "labels.json"
DEPTH = 1000  # layers that a checkpoint with fewer arrays may have (they can share parameters)


def folders(workdir) -> list[Path]:
    """Finished checkpoints of a run with their manifest, oldest first."""
    return [p for p in written(workdir) if (p / integrity.NAME).exists()]


def restore(folder, abstract: State, shardings: State, mesh, rules, cast=False, say=print) -> State:
    """The state in a checkpoint, as `abstract` says, in the layout of `shardings`.

    Raises ValueError, naming the array, where names, shapes or (unless `cast`) dtypes differ.
    """
    wanted, held = forms.stored_shapes(abstract, mesh, rules), inside(folder)
    guard = _guard(held, wanted)
    late = "ema_extra" in wanted and "ema" in held and "ema_extra" not in held
    begun = wanted.pop("ema_extra") if late else {}
    compare(folder, wanted, cast)
    loaded = load_arrays(folder, wanted)
    before = {n: x for n, x in loaded.pop("guard", {}).items() if n in guard}
    loaded |= {"guard": {**guard, **before}} if guard else {}
    if late:
        names = ", ".join(begun)
        say(f"checkpoint {Path(folder).name} has no average of {names}; it begins with today's")
        loaded["ema_extra"] = {name: loaded["extra"][name] for name in begun}
    return forms.unstored(loaded, abstract, shardings)


def _guard(held: dict, wanted: dict) -> dict:
    """A fresh guard; what is wanted becomes the checkpoint's own, which may have other fields.

    Without a spike's window it has fewer than with one; what both have (the place in the stream, the
    batches skipped) stays.
    """
    fresh = {n: jnp.zeros(x.shape, x.dtype) for n, x in wanted.get("guard", {}).items()}
    place = next((x.sharding for x in wanted.pop("guard", {}).values()), None)
    if fresh and held.get("guard"):
        own = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
               for n, x in held["guard"].items()}  # fmt: skip
        wanted["guard"] = own
    return fresh


def load_arrays(folder, wanted: dict) -> dict:
    """The arrays that `wanted` describes under today's names, whatever the checkpoint calls them."""
    place, names = Path(folder).absolute() / "state", _names(folder)
    before = {now: old for old, now in names.items()}
    asked = forms.nest({before.get(path, path): x for path, x in forms.flat(wanted).items()})
    try:
        loaded = forms.flat(ocp.load_checkpointables(place, asked))
    except Exception as error:
        raise ValueError(
            f"checkpoint {Path(folder).name} cannot be read: {str(error)[:200]}"
        ) from error
    return forms.nest({names.get(path, path): x for path, x in loaded.items()})


def _metadata(folder) -> dict:
    """{path that the checkpoint uses: what Orbax knows of the array}."""
    try:
        found = ocp.checkpointables_metadata(Path(folder).absolute() / "state").metadata
        return forms.flat(dict(found))
    except Exception as error:
        raise ValueError(f"{folder} is not a checkpoint of ours: {str(error)[:200]}") from error


def _names(folder) -> dict:
    """{path that the checkpoint uses: today's path}."""
    found = stated(folder)
    return {path: legacy.renamed(path, found) for path in _metadata(folder)}


def stated(folder) -> int:
    """The format that a checkpoint states; 0, the first one, where it states none."""
    path = Path(folder) / "run.json"
    return legacy.version(read_json(path) if path.is_file() else {})


def read_config(folder) -> dict:
    """A checkpoint's config with today's names, its lists as tuples; ValueError if it is none."""
    path = Path(folder) / "config.json"
    try:
        return tuples(legacy.config(read_json(path), stated(folder)))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a run's config: {error!s:.300}") from None


def inside(folder) -> dict:
    """What a checkpoint holds, as nested dicts of shapes and dtypes per group, by today's names."""
    found = stated(folder)
    rows = {
        legacy.renamed(path, found): jax.ShapeDtypeStruct(x.shape, x.dtype)
        for path, x in _metadata(folder).items()
    }
    return forms.nest(rows)


def compare(folder, wanted: dict, cast=False):
    """Raises ValueError for the first array whose name, shape or dtype differs from what is wanted.

    `cast` lets one floating type pass for another.
    """
    name, held, wanted = Path(folder).name, forms.flat(inside(folder)), forms.flat(wanted)
    other = "\nanother optimiser made it, or Adafactor with layers in another form (model.scan)"
    why = lambda path: other if path.startswith("train/opt_state") else ""
    for path, x in wanted.items():
        if path not in held:
            raise ValueError(f"checkpoint {name} lacks {path}, which this run needs{why(path)}")
        if held[path].shape != x.shape:
            raise ValueError(
                f"checkpoint {name} holds {path} with shape {held[path].shape}; this run needs "
                f"{x.shape}"
            )
        floating = all(jnp.issubdtype(t, jnp.floating) for t in (held[path].dtype, x.dtype))
        if held[path].dtype != x.dtype and not (cast and floating):
            raise ValueError(
                f"checkpoint {name} holds {path} as {held[path].dtype}; this run needs {x.dtype}, "
                "and nothing is cast unasked" + ("\n--config.allow_cast=true asks" * floating)
            )
    extra = [path for path in held if path not in wanted and not path.startswith("guard/")]
    if extra:
        raise ValueError(
            f"checkpoint {name} holds {extra[0]}, which this run does not have{why(extra[0])}"
        )


def tuples(value):
    """JSON values as configs hold them: tuples for lists."""
    if isinstance(value, dict):
        return {name: tuples(item) for name, item in value.items()}
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def find(path, say=print) -> Path:
    """The checkpoint that a workdir or a step's folder names; verified.

    Raises FileNotFoundError or ValueError in words when there is none or none is good.
    """
    path = Path(path)
    if (path / "state").is_dir():
        problems = integrity.problems(path)
        if problems:
            raise ValueError(f"checkpoint {path} is damaged: {problems[0]}")
        return path
    found, problem = written(path), ""
    for folder in reversed(found):
        problems = integrity.problems(folder)
        if not problems:
            return folder
        problem = problem or problems[0]
        say(f"checkpoint {folder.name} is damaged and not used: {problems[0]}")
    if found:
        raise ValueError(f"every checkpoint of {path} is damaged: {problem}")
    if (path / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"{path} is a PEFT folder, no run of ours; use init.reference, which merges it"
        )
    raise FileNotFoundError(f"{path} holds no checkpoint (nothing in {path / 'checkpoints'})")


def load_params(folder, averaged: bool = True) -> tuple[dict, dict]:
    """(parameters under per-layer names, extra collections) on the default device.

    `averaged` takes the exponential averages where they were kept. Of a policy and its value net the
    policy is taken.
    """
    held = inside(folder)
    name = "ema" if averaged and "ema" in held else "params"
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    names = (name, "extra", *["ema_extra"] * (name == "ema"))
    wanted = {group: held[group] for group in names if group in held}
    wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), wanted)
    loaded = load_arrays(folder, wanted)
    found = loaded[name]
    extra = {**loaded.get("extra", {}), **loaded.get("ema_extra", {})}
    return found.get("policy", found), extra


def write_labels(folder, labels) -> None:
    """Writes the names of the classes, in the order of their scores, beside a checkpoint."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / LABELS).write_text(json.dumps(list(labels)) + "\n")


def read_labels(folder) -> tuple:
    """The names that `write_labels` wrote, as text; () where there are none."""
    path = Path(folder) / LABELS
    if not path.is_file():
        return ()
    found = parse(b'{"labels":' + path.read_bytes() + b"}", path)["labels"]
    if not isinstance(found, list) or any(type(label) not in (str, int, bool) for label in found):
        raise ValueError(f"{path} is not a list of the names of classes")
    return tuple(map(str, found))


def load_run(path, averaged: bool = True, scan: bool = False):
    """(config, model, variables, tokenizer) of a run's newest good checkpoint or of one step's folder.

    The layers come apart, which decodes faster on CPU, unless `scan`; the config says which. The
    tokenizer is None where the checkpoint has none. Raises FileNotFoundError or ValueError in words.
    """
    folder = find(path)
    config = ConfigDict(read_config(folder))
    if not isinstance(config.get("model"), ConfigDict):
        raise ValueError(f"checkpoint {folder} has no model in its config.json")
    try:
        options = Options.of(config.model.to_dict()).replace(scan=scan)
    except ValueError as error:
        raise ValueError(f"checkpoint {folder}: {error}") from None
    config.model.scan = scan
    arrays = len(forms.flat(inside(folder)))
    deep = max(options.layers, options.encoder_layers)
    if deep > max(DEPTH, arrays):  # before a model of absurd depth is traced
        raise ValueError(
            f"checkpoint {folder} holds {arrays} arrays; its config.json says {deep:,} layers"
        )
    from train.core import lora

    params, extra = lora.loaded(folder, averaged)
    wanted = forms.flat(shapes(options.replace(scan=False)))
    held = forms.flat(params)
    for name, x in wanted.items():
        if name not in held or held[name].shape != x.shape:
            raise ValueError(f"checkpoint {folder} does not hold {name} {x.shape} of its own model")
    if scan:
        params = forms.back(params, shapes(options))
    tokenizer = None
    if (folder / "tokenizer").is_dir():
        from train.data.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(folder / "tokenizer")
    return config, build(options), {"params": params, **extra}, tokenizer
