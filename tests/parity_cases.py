"""Parity cases: small models of the reference library with inputs and outputs, and how to compare.

A case is a folder: case.json (calls, masks, the peer's own float32 noise), config.json, inputs.npz
and outputs.npz (`call/name`), model.safetensors, and `grads.CALL.npz` where gradients were taken.
"""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Line:
    """One verdict. `text` names what was compared; `difference` is the largest one."""

    ok: bool
    text: str
    difference: float = float("nan")
    tolerance: float = float("nan")
    note: str = ""

    def __str__(self):
        numbers = f"max|d|={self.difference:.3e} tol={self.tolerance:.1e}"
        return f"{'ok  ' if self.ok else 'FAIL'} {self.text:60s} {numbers} {self.note}".rstrip()


class Case:
    """One case folder. ValueError or OSError, naming the file, for one that cannot be read."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.meta = json.loads((path / "case.json").read_text(encoding="utf-8"))
            self.calls = self.meta["calls"]
            self.name = str(self.meta.get("name", path.name))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path / 'case.json'} is not a case: {error!r}") from None
        self.config = json.loads((path / "config.json").read_text(encoding="utf-8"))

    def inputs(self, call: str) -> dict:
        return _pick(self.path / "inputs.npz", call)

    def outputs(self, call: str) -> dict:
        return _pick(self.path / "outputs.npz", call)

    def grads(self, call: str) -> dict:
        """{tensor name: gradient of the call's loss}, empty where the case has none."""
        file = self.path / f"grads.{call}.npz"
        return dict(np.load(file)) if file.is_file() else {}

    def keep(self, call: str, name: str, inputs: dict, shape: tuple) -> np.ndarray:
        """Boolean, true where the case's mask rules leave an output to be compared."""
        keep = np.ones(shape, bool)
        for rule in self.calls[call].get("masks", []):
            axis = rule["axis"]
            if not re.fullmatch(rule["outputs"], name) or len(shape) <= axis:
                continue
            mask = inputs[rule["mask"]] != 0
            if (shape[0], shape[axis]) == mask.shape:
                spread = [1] * len(shape)
                spread[0], spread[axis] = mask.shape
                keep &= mask.reshape(spread)
        return keep

    def noise(self, call: str, name: str):
        """The peer's own gap between float32 and float64 for an output, or None."""
        return self.calls[call].get("noise", {}).get(name)


def _pick(file: Path, call: str) -> dict:
    with np.load(file) as arrays:
        prefix = call + "/"
        return {k[len(prefix) :]: arrays[k] for k in arrays.files if k.startswith(prefix)}


def find(root: Path) -> list:
    """Every folder under `root` (itself included) that holds a case, in order."""
    return sorted(file.parent for file in root.rglob("case.json"))


def compare(case: Case, call: str, name: str, want, got, inputs: dict) -> Line:
    """An output against the case: |difference| <= tolerance * max(1, std), where it is not masked.

    The tolerance is max(2e-5, 15 * the peer's noise), 1e-4 where that was not measured. Integers
    must be equal, and what is not finite must be so on both sides.
    """
    text = f"{case.name} {call} {name}"
    got = np.asarray(got)
    if want.shape != got.shape:
        return Line(False, text, note=f"shape {got.shape}, want {want.shape}")
    keep = case.keep(call, name, inputs, want.shape)
    if want.dtype.kind in "iub":
        wrong = int(((want != got) & keep).sum())
        return Line(wrong == 0, text, float(wrong), 0.0, f"{wrong} unequal" if wrong else "")
    want, got = want.astype(np.float64)[keep], got.astype(np.float64)[keep]
    finite = np.isfinite(want)
    if not np.array_equal(finite, np.isfinite(got)):
        return Line(False, text, note="non-finite entries differ")
    if not np.array_equal(want[~finite], got[~finite], equal_nan=True):
        return Line(False, text, note="infinities differ in sign")
    want, got = want[finite], got[finite]
    wide = max(1.0, float(want.std())) if want.size else 1.0
    noise = case.noise(call, name)
    tolerance = (1e-4 if noise is None else max(2e-5, 15 * noise / wide)) * wide
    difference = float(np.abs(want - got).max()) if want.size else 0.0
    return Line(difference <= tolerance, text, difference, tolerance)


def compare_gradient(case: Case, call: str, name: str, want, got) -> Line:
    """A gradient against the case.

    The kit states no tolerance for gradients; its 1e-4 * max(1, std) alone would pass a wrong small
    gradient, so that the difference must also stay within 1e-3 of the largest entry (plus 1e-6).
    """
    text = f"{case.name} {call} grad {name}"
    got = np.asarray(got)
    if want.shape != got.shape:
        return Line(False, text, note=f"shape {got.shape}, want {want.shape}")
    want, got = want.astype(np.float64), got.astype(np.float64)
    if not np.isfinite(got).all():
        return Line(False, text, note="not finite")
    tolerance = 1e-4 * max(1.0, float(want.std()))
    tolerance = min(tolerance, 1e-3 * float(np.abs(want).max()) + 1e-6)
    difference = float(np.abs(want - got).max()) if want.size else 0.0
    return Line(difference <= tolerance, text, difference, tolerance)
