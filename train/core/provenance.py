"""run.json: what a run was, so that it can be repeated, resumed and told from another.

JSON alone, never code: a tuple is `{"tuple": [...]}`, so that the config that is read back equals
the one that was written, types included.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from train.core.config import complete, leaves

NAME = "run.json"
FORMAT = 1  # of run.json and of the checkpoint beside it
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml_collections")
_LIMIT = 16 << 20  # bytes; a run.json is a few kilobytes


def record(config: ConfigDict, mesh=None, fingerprint=None) -> dict:
    """Everything about a run that is known before its first step, as plain JSON values.

    `mesh` is a jax Mesh (or a dict of axis sizes), `fingerprint` what the data says of itself.
    """
    device = jax.devices()[0]
    shape = dict(getattr(mesh, "shape", mesh) or {})
    return {
        "format": FORMAT,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": encode(config),
        "seed": config.get("seed", 0),
        "versions": versions(),
        "git": git(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
        },
        "mesh": {str(axis): int(size) for axis, size in shape.items()},
        "data": encode(fingerprint or {}),
    }


def write(workdir, run: dict) -> Path | None:
    """Writes run.json into the workdir (process 0 only), whole or not at all.

    What an earlier start of this run wrote is kept in `earlier`, oldest first, without its config
    where that is the same.
    """
    if jax.process_index() != 0:
        return None
    path = Path(workdir) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    run = dict(run)
    if path.exists():
        before = _parsed(path)
        earlier = before.pop("earlier", [])
        if before.get("config") == run.get("config"):
            before.pop("config", None)
        run["earlier"] = [*earlier, before]
    temporary = path.with_name(NAME + ".tmp")
    temporary.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return path


def read(workdir) -> dict:
    """run.json (of a workdir, or the file itself) with `config` as a ConfigDict, `data` decoded.

    FileNotFoundError without the file; ValueError if it is not one, or of a newer format.
    """
    path = Path(workdir)
    path = path / NAME if path.is_dir() else path
    run = _parsed(path)
    if not isinstance(run.get("format"), int) or run["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {run.get('format')!r}; this version reads up to {FORMAT}"
        )
    if not isinstance(run.get("config"), dict):
        raise ValueError(f"{path} holds no config")
    run["config"] = ConfigDict(decode(run["config"]))
    run["data"] = decode(run.get("data", {}))
    return run


def differences(old: ConfigDict, new: ConfigDict) -> list:
    """(field, old value, new value) where two configs differ; a missing field is "absent"."""
    before, after = dict(leaves(old)), dict(leaves(new))
    return [
        (name, before.get(name, "absent"), after.get(name, "absent"))
        for name in dict.fromkeys((*before, *after))
        if before.get(name, "absent") != after.get(name, "absent")
    ]


def changes(workdir, config: ConfigDict) -> list:
    """`differences` between the config that a run was last started with and a completed one.

    A field that is younger than the run is none of them while it has its default.
    """
    old = read(workdir)["config"]
    with contextlib.suppress(ValueError):  # a config that is no longer valid is compared as it is
        old = complete(old)
    return differences(old, config)


def encode(value):
    """A JSON value that `decode` turns back into the same config, dict, tuple or scalar."""
    if isinstance(value, ConfigDict):
        return {str(name): encode(item) for name, item in value.items()}
    if isinstance(value, dict):
        return {str(name): encode(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise ValueError(f"{value!r} ({type(value).__name__}) cannot be written to {NAME}")


def decode(value):
    """The inverse of `encode`; a section comes back as a dict."""
    if isinstance(value, dict):
        if set(value) == {"tuple"} and isinstance(value["tuple"], list):
            return tuple(decode(item) for item in value["tuple"])
        return {name: decode(item) for name, item in value.items()}
    return [decode(item) for item in value] if isinstance(value, list) else value


def versions() -> dict:
    """Versions of Python and of the packages that decide what a run computes."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git() -> dict:
    """{"sha", "dirty"} of the checkout that this code is in; {} outside of a repository."""
    folder = Path(__file__).resolve().parents[2]
    sha = _git(folder, "rev-parse", "HEAD")
    if not sha or not (folder / ".git").exists():
        return {}
    return {"sha": sha, "dirty": bool(_git(folder, "status", "--porcelain", "-uno"))}


def _git(folder, *arguments) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _parsed(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not a run: it has no {NAME}")
    if path.stat().st_size > _LIMIT:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes; more than {_LIMIT} is no run.json"
        )
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(run, dict):
        raise ValueError(f"{path} is not a run's record")
    return run
