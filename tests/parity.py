"""Holds our models against cases that were made with the reference library.

    python -m tests.parity PATH [--only gpt2 llama ...] [--skip FAMILY/CASE ...]

PATH holds case folders (`tests.parity_cases`); `--only` names folders directly under it. Every
array of every call's outputs and gradients has a line that begins with `ok` or `FAIL`; what we
don't produce fails, as does a family that we don't have. Beside them, and counted with them:
whether both spellings of the config mean the same, and whether an import that is exported again
gives the same tensors. The exit status is 1 if anything failed or nothing ran.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from models.interop import config, tensors
from tests import parity_conv, parity_decoders, parity_encdec, parity_encoders, parity_vision
from tests.parity_cases import Case, Line, compare, compare_gradient, find
from tests.parity_generation import generation

SIDES = (parity_decoders, parity_encoders, parity_encdec, parity_vision, parity_conv)
PEERS = {name: side.Peer for side in SIDES for name in side.TYPES}
PEERS.update({**parity_encdec.OTHERS, **parity_vision.OTHERS, **parity_conv.OTHERS})


def check(path: Path) -> Iterator[Line]:
    """The lines of one case."""
    case = Case(path)
    kind = case.config.get("model_type") if isinstance(case.config, dict) else None
    if case.meta.get("kind", "hf") != "hf":
        kind = f"{case.meta['kind']}/{case.meta.get('model_class')}"
    peer, fault = None, f"there is no family for model_type {kind!r}"
    if kind in PEERS:
        peer, fault = attempt(lambda: PEERS[kind](path))
    for call in case.calls:
        yield from outputs(case, call, peer, fault)
        yield from gradients(case, call, peer, fault)
    if peer is not None:
        yield identity(case, peer)
        if (path / "config_legacy.json").is_file():
            yield spellings(case, peer)


def attempt(make: Callable) -> tuple:
    """(result, "") or (None, the fault in one line); one broken case must not stop the others."""
    try:
        return make(), ""
    except Exception as error:  # noqa: BLE001
        text = " ".join(str(error).split())[:200]
        return None, f"{type(error).__name__}: {text}"


def outputs(case, call, peer, fault):
    """A line for every output array of a call."""
    wanted, got = case.outputs(call), None
    if peer is not None:
        inputs, settings = case.inputs(call), case.calls[call].get("generate")
        if settings is not None:
            got, fault = attempt(lambda: generation(peer, inputs, settings))
        else:
            got, fault = attempt(lambda: peer.outputs(inputs, wanted))
    for name, want in wanted.items():
        if got is None or name not in got:
            note = fault if got is None else "not produced"
            yield Line(False, f"{case.name} {call} {name}", note=note)
        else:
            yield compare(case, call, name, want, got[name], inputs)


def gradients(case, call, peer, fault):
    """A line for every gradient array of a call."""
    wanted, got = case.grads(call), None
    if wanted and peer is not None:
        of = case.calls[call].get("grad_of", "loss")
        got, fault = attempt(lambda: peer.gradients(case.inputs(call), of))
    for name, want in wanted.items():
        if got is None or name not in got:
            note = fault if got is None else "not produced"
            yield Line(False, f"{case.name} {call} grad {name}", note=note)
        else:
            yield compare_gradient(case, call, name, want, got[name])


def identity(case, peer):
    """Whether exporting what was imported gives the case's own tensors, bit for bit."""
    text, files = f"{case.name} export", tensors.open_folder(case.path)
    mine, fault = attempt(lambda: peer.export(files))
    if mine is None:
        return Line(False, text, note=fault)
    if set(mine) != set(files):
        return Line(False, text, note=f"names differ: {sorted(set(mine) ^ set(files))[:3]}")
    own = {k: np.asarray(files[k], mine[k].dtype) for k in mine}  # half precision is widened
    other = [
        k for k in mine if own[k].shape != mine[k].shape or own[k].tobytes() != mine[k].tobytes()
    ]
    note = f"{len(mine)} tensors" if not other else f"{other[0]} differs"
    return Line(not other, text, float(len(other)), 0.0, note)


def spellings(case, peer):
    """Whether config_legacy.json, the hub's older spelling, gives the same options."""
    text, files = f"{case.name} config_legacy.json", tensors.open_folder(case.path)
    read = lambda: config.read(tensors.read_json(case.path / "config_legacy.json"), files)  # noqa: E731
    mine, fault = attempt(read)
    if mine is None or mine == peer.o:
        return Line(mine is not None, text, 0.0 if mine else float("nan"), 0.0, fault)
    mine, theirs = mine.plain(), peer.o.plain()
    return Line(False, text, note=f"differs in {[k for k in mine if mine[k] != theirs[k]]}")


def run(root: Path, only=(), skip=(), say=print) -> bool:
    """Checks every case under `root`, says every line; whether all passed and any ran."""
    counts, skipped, cases = {True: 0, False: 0}, [], 0
    for path in find(root):
        parts = path.relative_to(root).parts
        name = "/".join(parts) or path.name
        if only and (not parts or parts[0] not in only):
            continue
        if name in skip:
            skipped.append(name)
            continue
        cases += 1
        lines, fault = attempt(lambda path=path: iter(list(check(path))))
        for line in [Line(False, name, note=fault)] if lines is None else lines:
            counts[line.ok] += 1
            say(str(line))
    absent = [name for name in only if not (root / name).is_dir()]
    absent += [name for name in skip if name not in skipped]
    say(
        f"{cases} cases: {counts[True]} ok, {counts[False]} failed; "
        f"skipped: {', '.join(skipped) or 'none'}"
        + (f"; not found: {', '.join(absent)}" if absent else "")
    )
    return counts[False] == 0 and counts[True] > 0


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.parity", description=__doc__.split("\n")[0]
    )
    parser.add_argument("path", type=Path, help="a folder with case folders under it")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="FAMILY", help="folders under PATH"
    )
    parser.add_argument(
        "--skip", nargs="+", default=[], metavar="FAMILY/CASE", help="cases left out"
    )
    args = parser.parse_args(argv)
    if not args.path.is_dir():
        print(f"error: {args.path} is not a folder", file=sys.stderr)
        return 2
    say = lambda text: print(text, flush=True)  # noqa: E731
    with jax.default_matmul_precision("highest"):
        return 0 if run(args.path, args.only, args.skip, say) else 1


if __name__ == "__main__":
    sys.exit(main())
