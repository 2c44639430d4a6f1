"""Which patches of a picture are masked in pre-training.

Blockwise (Bao et al. 2021, algorithm 1, and the authors' `masking_generator.py`): rectangles of a
uniform number of patches, at least `least`, and an aspect log-uniform in [0.3, 1/0.3] are laid until
`count` patches are masked. Never more; fewer, where ten tries in a row bring nothing.
"""

import math

import numpy as np


def blocks(rng, height: int, width: int, count: int, least: int = 4, aspect=0.3) -> np.ndarray:
    """bool [height, width] with at most `count` patches masked."""
    mask = np.zeros((height, width), bool)
    done = 0
    while done < count:
        added = _block(rng, mask, count - done, least, aspect)
        if not added:
            break
        done += added
    return mask


def _block(rng, mask, room: int, least: int, aspect: float) -> int:
    """Lays one rectangle into the mask; how many patches that were free it covers."""
    height, width = mask.shape
    for _ in range(10):
        area = rng.uniform(*sorted((least, room)))
        ratio = math.exp(rng.uniform(math.log(aspect), -math.log(aspect)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h >= height or w >= width:
            continue
        top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        inside = mask[top : top + h, left : left + w]
        free = inside.size - int(inside.sum())
        if 0 < free <= room:
            inside[:] = True
            return free
    return 0


def scattered(rng, height: int, width: int, count: int) -> np.ndarray:
    """bool [height, width] with `count` patches drawn without replacement (He et al. 2021)."""
    mask = np.zeros(height * width, bool)
    mask[rng.permutation(height * width)[:count]] = True
    return mask.reshape(height, width)
