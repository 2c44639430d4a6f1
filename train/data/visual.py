"""Batches for pre-training on pictures: which patches are masked, how soft the codes are.

Both wrap a stream of pictures and add rows that are functions of (seed, sample number) and of the
step; labels are left in place, and the loops do not read them.
"""

import dataclasses

import numpy as np

from train.data import masking


@dataclasses.dataclass
class Masked:
    """Adds `masked` float32 [B,N], 1 where a patch is hidden.

    kind: "blocks" (Bao et al. 2021) or "scattered" (He et al. 2021). `count` patches of a grid of
    rows x columns, blocks of at least `least`.
    """

    stream: object
    grid: tuple
    count: int
    kind: str = "blocks"
    least: int = 4

    def __post_init__(self):
        if self.kind not in ("blocks", "scattered"):
            raise ValueError(f"config.mask.kind is {self.kind!r}; expected blocks or scattered")
        if not 0 < self.count < self.grid[0] * self.grid[1]:
            raise ValueError(
                f"config.mask.share gives {self.count} of {self.grid[0] * self.grid[1]} patches; "
                "expected some and not all"
            )
        if self.kind == "blocks" and min(self.grid) < 2:
            raise ValueError(
                f"a grid of {self.grid[0]} x {self.grid[1]} patches holds no block that leaves some of "
                "each side: use --config.mask.kind=scattered"
            )
        if self.kind == "blocks" and not 1 <= self.least <= self.count:
            raise ValueError(
                f"config.mask.least is {self.least}, the patches of a block; expected at least 1 and at "
                f"most the {self.count} that config.mask.share masks"
            )

    @property
    def fingerprint(self) -> dict:
        """The stream's, and how it is masked."""
        kept = dict(grid=list(self.grid), count=self.count, kind=self.kind, least=self.least)
        return {**self.stream.fingerprint, "mask": kept}

    def mask(self, seed: int, sample: int) -> np.ndarray:
        """bool [rows, columns] of one sample."""
        rng = np.random.default_rng((seed, 14, sample))
        if self.kind == "scattered":
            return masking.scattered(rng, *self.grid, self.count)
        return masking.blocks(rng, *self.grid, self.count, self.least)

    def batch(self, step: int) -> dict:
        """The stream's batch with its masks."""
        s, batch = self.stream, self.stream.batch(step)
        share = s.size // s.processes
        first = step * s.size + s.process * share
        masks = [self.mask(s.seed, first + row) for row in range(share)]
        return {**batch, "masked": np.stack(masks).reshape(share, -1).astype(np.float32)}


@dataclasses.dataclass
class Tempered:
    """Adds `temperature` float32 [B], falling from `first` to `last` over `steps` (Ramesh et al. 2021)."""

    stream: object
    first: float
    last: float
    steps: int

    @property
    def fingerprint(self) -> dict:
        """The stream's own."""
        return self.stream.fingerprint

    def batch(self, step: int) -> dict:
        """The stream's batch; the temperature falls as a cosine."""
        done = min(step / max(self.steps, 1), 1.0)
        now = self.last + (self.first - self.last) * 0.5 * (1 + np.cos(np.pi * done))
        batch = self.stream.batch(step)
        return {**batch, "temperature": np.full(len(batch["images"]), now, np.float32)}
