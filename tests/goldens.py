"""Our numbers against those of the peers' own code: `python -m tests.goldens [FOLDER]`.

Prints a row for every golden file: how many numbers were compared, the largest difference (absolute
below 1, relative above) and whether all lie within the tolerance of what the peer computed in.
FOLDER is tests/golden by default; any folder with files of the same names, at any depth, will do. What
is known to be left out is said below the table. Exit status 1 if a number is off.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from tests import goldens_losses, goldens_values

HERE = Path(__file__).parent / "golden" / "alignment"
CHECKS = {**goldens_losses.CHECKS, **goldens_values.CHECKS}
ELSEWHERE = {
    "beam_search": "tests/models/test_beam.py",
    "sampling_filters": "tests/models/test_sampling.py",
    "tiny_gpt2": "tests/models/test_generate.py",
    "chat_templates": "tests/train/data/test_chat.py",
    "packing": "tests/train/data/test_packing.py",
    "overlap": "tests/eval/test_overlap.py",
    "lm_eval_local_completions": "nothing here: a server's contract",
}
LEFT_OUT = {
    "q_learning_gym": "everything but Sutton and Barto's grid where gymnasium is not installed",
}


def compare(name: str, golden: dict) -> list:
    """Rows (label, difference, tolerance) of one file, in double precision."""
    rows = []
    with jax.enable_x64(True):
        for label, ours, theirs, tolerance in CHECKS[name](golden):
            ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
            assert ours.shape == theirs.shape, f"{name}: {label}: {ours.shape}, {theirs.shape}"
            off = np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))
            rows += [(label, float(x), tolerance) for x in np.atleast_1d(off).ravel()]
    return rows


def main(folder=HERE.parent) -> int:
    bad, known = 0, {*CHECKS, *ELSEWHERE}
    print(f"{'file':<24}{'checks':>8}{'largest difference':>22}")
    found = [p for p in Path(folder).rglob("*.json") if p.stem in known or p.parent == Path(folder)]
    for path in sorted(found, key=lambda p: p.stem):
        if path.stem in CHECKS:
            rows = compare(path.stem, json.loads(path.read_text()))
            off = [f"{label} {x:.1e}" for label, x, tolerance in rows if not x <= tolerance]
            largest = max(x for _, x, _ in rows)
            print(f"{path.stem:<24}{len(rows):>8}{largest:>22.1e}  {'; '.join(off[:3]) or 'ok'}")
            bad += len(off)
        else:
            print(f"{path.stem:<24}{'':>8}{'':>22}  {ELSEWHERE.get(path.stem, 'unknown')}")
    for name, what in LEFT_OUT.items():
        print(f"left out of {name}: {what}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
